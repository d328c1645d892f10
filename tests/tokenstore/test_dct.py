"""DCT: what a JPEG of the image would hold, held to Pillow's JPEG."""

import itertools
import json
from io import BytesIO

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import tokenstore
from tests.toy_images import encoded, picture, write_corpus
from tokenstore.cli.main import main
from tokenstore.errors import TokenizerError
from tokenstore.preprocess import Preprocess
from tokenstore.tokenizers import load_tokenizer
from tokenstore.tokenizers.dct import DEFAULT_QUALITY, OTHER_QUALITIES, ZIGZAG, Dct

QUALITIES = (DEFAULT_QUALITY, *OTHER_QUALITIES)
SIZE = (48, 64)


def dct(quality: int = DEFAULT_QUALITY) -> Dct:
    name = "dct" if quality == DEFAULT_QUALITY else f"dct-{quality}"
    loaded = load_tokenizer(name, preprocess=Preprocess("center-crop", SIZE))
    assert isinstance(loaded, Dct)
    return loaded


def photos(count: int) -> np.ndarray:
    """Smooth pictures with grain, uint8 [n, *SIZE, 3]."""
    rng = np.random.default_rng(0)
    smooth = np.stack([np.asarray(picture(seed, SIZE[::-1])) for seed in range(count)])
    return (smooth + rng.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)


def as_jpeg(image: np.ndarray, quality: int) -> Image.Image:
    content = encoded(Image.fromarray(image), quality=quality, subsampling=0)
    return Image.open(BytesIO(content))


@pytest.mark.parametrize("quality", QUALITIES)
def test_its_tables_are_those_that_pillow_writes(quality: int) -> None:
    written = as_jpeg(photos(1)[0], quality).quantization
    assert [table.tolist() for table in dct(quality).tables] == list(map(list, written.values()))


@pytest.mark.parametrize("quality", QUALITIES)
def test_its_pictures_are_pillows_jpegs_within_rounding(quality: int) -> None:
    images, tokenizer = photos(6), dct(quality)
    ours = tokenizer.to_uint8(tokenizer.decode(tokenizer.encode(images)))
    jpegs = np.stack([np.asarray(as_jpeg(image, quality)) for image in images])
    apart = np.abs(ours.astype(int) - jpegs)
    # Where a coefficient lies half-way between two steps, libjpeg's transform in whole numbers may
    # take the other one: a few pixels of such a block differ by more than a rounding.
    assert (apart > 1).mean() < 0.06
    assert apart.mean() < 0.25
    assert np.abs(images.astype(int) - jpegs).mean() > 8 * apart.mean()


def test_pictures_of_coefficients_give_the_same_coefficients_again() -> None:
    tokenizer, images = dct(10), 128 + (photos(4) - 128.0) / 4  # far from where bytes are clipped
    ids = tokenizer.encode(images.astype(np.uint8))
    again = tokenizer.encode(tokenizer.to_uint8(tokenizer.decode(ids)))
    assert np.array_equal(ids, again)


def test_a_flat_block_has_its_mean_in_the_first_channel_alone() -> None:
    tokenizer = dct()
    ids = tokenizer.encode(np.full((1, *SIZE, 3), 200, np.uint8))
    coefficients = tokenizer.codebook[ids.numpy(), 0]
    step = tokenizer.tables[0][0]
    assert (coefficients[:, 0] == round(8 * (200 - 128) / step)).all()
    assert not coefficients[:, 1:].any()


def test_its_channels_go_through_a_block_in_zigzag() -> None:
    assert ZIGZAG[:10].tolist() == [0, 1, 8, 16, 9, 2, 3, 10, 17, 24]
    assert sorted(ZIGZAG.tolist()) == list(range(64))
    walked = [(place // 8, place % 8) for place in ZIGZAG.tolist()]
    assert all(max(abs(a - c), abs(b - d)) == 1 for (a, b), (c, d) in itertools.pairwise(walked))


def test_the_scale_makes_a_flat_bright_image_a_number_near_one() -> None:
    tokenizer = dct()
    ids = tokenizer.encode(np.full((1, *SIZE, 3), 192, np.uint8)).numpy()
    fed = tokenizer.codebook[ids, 0] * np.array(tokenizer.describe()["scale"])[:, None, None]
    assert fed[:, 0] == pytest.approx(1.0, abs=0.02)


def test_a_restricted_search_takes_the_nearest_coefficient() -> None:
    tokenizer, images = dct(), photos(3)
    free = tokenizer.encode(images).numpy()
    known = np.array([1000, 1024, 1030])
    tokenizer.restrict(known)
    distance = np.abs(known[:, None, None, None, None] - free)
    assert np.array_equal(tokenizer.encode(images), known[distance.argmin(axis=0)])


def test_ids_without_channels_are_refused() -> None:
    with pytest.raises(TokenizerError, match=r"decodes ids \[n, 192, h, w\], got \[1, 6, 8\]"):
        dct().decode(np.full((1, 6, 8), 1024))


def test_weights_are_refused() -> None:
    with pytest.raises(TokenizerError, match="neither weights nor a configuration"):
        load_tokenizer("dct", weights="some.ckpt")


@pytest.mark.parametrize("codec", ["zstd", "context", "rans", "gzip"])
def test_a_store_holds_the_coefficients_without_loss(tmp_path, codec: str) -> None:
    corpus = write_corpus(tmp_path / "photos", {"train": 6, "val": 2})
    place = tmp_path / "s"
    command = ["build", str(corpus), "-o", str(place), "--tokenizer", "dct-50", "--codec", codec]
    run = CliRunner().invoke(main, [*command, "--image-size", "32x40"])
    assert run.exit_code == 0, run.output
    verified = CliRunner().invoke(main, ["verify", str(place), "--json"])
    assert verified.exit_code == 0, verified.output
    store = tokenstore.open(place)
    assert store.manifest.grid == (192, 4, 5)
    assert "channels" in store.manifest.requires
    assert store.manifest.tokenizer.config["quality"] == 50
    tokenizer = load_tokenizer("dct-50", preprocess=Preprocess("center-crop", (32, 40)))
    for split in store.values():
        batch = split.read(np.arange(len(split)))
        keys = split.keys(np.arange(len(split)))
        images = [Image.open(f"{corpus}/{split.name}/{key}.jpg") for key in keys]
        ids = tokenizer.encode(np.stack([tokenizer.preprocess(image) for image in images]))
        assert np.array_equal(store.ids(batch.ranks), ids)
        assert np.array_equal(store.decode(batch.ranks), tokenizer.to_uint8(tokenizer.decode(ids)))
    told = json.loads(CliRunner().invoke(main, ["info", str(place), "--json"]).stdout)
    assert told["images"] == 8
