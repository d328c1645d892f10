"""Views: crops that follow from seed and key, inside of the picture, and known to their store."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import tokenstore
from tests.toy_images import encoded, picture, write_corpus
from tests.toy_masks import write_file, write_masked_corpus
from tokenstore.build.pictures import pictures_of
from tokenstore.build.views import RATIOS, SCALES, Views
from tokenstore.cli.main import main
from tokenstore.errors import UsageError
from tokenstore.loader import TokenLoader
from tokenstore.preprocess import Preprocess
from tokenstore.reader import Store
from tokenstore.sources import open_source
from tokenstore.subset import one_view
from tokenstore.verify import verify_store

K = 4


def run(*words: object, fails: bool = False) -> str:
    ran = CliRunner().invoke(main, [str(word) for word in words])
    assert (ran.exit_code == 2) == fails, ran.output
    return ran.stderr if fails else ran.stdout


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "in", {"train": 6, "val": 2})


def built(corpus: Path, place: Path, *more: object) -> Store:
    run("build", corpus, "-o", place, "--tokenizer", "toy", "--image-size", 32, *more)
    return tokenstore.open(place)


@pytest.fixture
def store(corpus: Path, tmp_path: Path, toy_tokenizer: str) -> Store:
    return built(corpus, tmp_path / "s", "--views", K, "--seed", 5)


@pytest.mark.parametrize("original", [(300, 400), (50, 40), (1, 1), (20, 1900), (1900, 20)])
@pytest.mark.parametrize("size", [(32, 32), (32, 64)])
def test_crops_lie_in_the_picture_and_have_about_its_ratio(
    original: tuple[int, int], size: tuple[int, int]
) -> None:
    views, flips = Views(200), 0
    for view in range(1, 200):
        crop = views.crop("a/b", view, original, size)
        assert 0 <= crop.left < crop.right <= original[1]
        assert 0 <= crop.top < crop.bottom <= original[0]
        flips += crop.flip
        if min(original) > 100:
            across, down = crop.right - crop.left, crop.bottom - crop.top
            share = across * down / (original[0] * original[1])
            assert SCALES[0] * 0.95 < share <= SCALES[1]
            ratio = across / down / (size[1] / size[0])
            assert RATIOS[0] * 0.95 < ratio < RATIOS[1] * 1.05
    assert 60 < flips < 140


def test_a_crop_follows_from_seed_key_and_number_alone() -> None:
    def crop(seed: int, key: str, view: int) -> object:
        return Views(9, seed).crop(key, view, (300, 400), (32, 32))

    assert crop(0, "a", 1) == crop(0, "a", 1)
    assert len({crop(0, "a", 1), crop(1, "a", 1), crop(0, "b", 1), crop(0, "a", 2)}) == 4
    assert Views.of(Views(9, 3).as_json()) == Views(9, 3)
    assert Views(1, 3).as_json() == {}


def test_a_view_shows_what_its_metadata_says(tmp_path: Path) -> None:
    ramp = np.zeros((200, 300, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, 300)
    ramp[..., 1] = np.linspace(0, 255, 200)[:, None]
    write_file(tmp_path / "a/x.png", encoded(Image.fromarray(ramp), "PNG"))
    source = open_source(str(tmp_path))
    item = source.listing().splits["train"][0]
    found = pictures_of(source, item, Preprocess("center-crop", (64, 64)), Views(6))
    assert [one.view for one in found] == list(range(6))
    plain = Preprocess("center-crop", (64, 64)).apply(source.load(item))
    assert np.array_equal(found[0].pixels, plain)
    for one in found[1:]:
        said = json.loads(one.meta)
        left, top, right, _ = said["crop"]
        if said["flip"]:
            left, right = right, left
        sides = one.pixels[32, 0, 0], one.pixels[32, -1, 0], one.pixels[0, 32, 1]
        assert np.allclose(sides, [255 * left, 255 * right, 255 * top], atol=6)


def test_views_of_an_image_are_neighbours_with_one_key_and_label(store: Store) -> None:
    plain = tokenstore.open(store.url)["train"]
    assert (len(store["train"]), len(store["val"])) == (6 * K, 2 * K)
    assert store.manifest.preprocess["views"]["count"] == K
    samples = list(plain)
    for image in range(6):
        some = samples[K * image : K * image + K]
        assert [one.view for one in some] == list(range(K))
        assert len({(one.key, one.label) for one in some}) == 1
        assert some[0].meta == {"crop": [0, 0, 1, 1], "flip": False}
        assert len({json.dumps(one.meta) for one in some}) == K
    assert not verify_store(store.url)


def test_view_zero_is_the_store_of_one_view(store: Store, corpus: Path, tmp_path: Path) -> None:
    other = built(corpus, tmp_path / "one", "--seed", 5)
    for i, sample in enumerate(other["train"]):
        first = store["train"][K * i]
        assert (sample.key, sample.view) == (first.key, None)
        assert np.array_equal(other.ids(sample.ranks), store.ids(first.ranks))
    assert (
        other.manifest.splits["train"].source_bytes == store.manifest.splits["train"].source_bytes
    )


def test_workers_and_part_size_change_no_view(store: Store, corpus: Path, tmp_path: Path) -> None:
    more = ("--views", K, "--seed", 5, "--part-size", 2, "--workers", 1, "--batch-size", 3)
    other = built(corpus, tmp_path / "other", *more)
    for one, same in zip(store["train"], other["train"], strict=True):
        assert (one.key, one.view, one.meta) == (same.key, same.view, same.meta)
        assert np.array_equal(store.ids(one.ranks), other.ids(same.ranks))


def test_a_loader_takes_one_view_an_image_an_epoch_and_all_in_turn(store: Store) -> None:
    split = store["train"]
    loader = TokenLoader(split, batch_size=4, sampler=one_view(split, 1))
    epochs = []
    for _ in range(K):
        index = np.concatenate([batch.index[batch.valid] for batch in loader])
        assert sorted(index // K) == list(range(6))
        epochs.append(index)
    assert sorted(np.concatenate(epochs)) == list(range(6 * K))
    assert len({tuple(sorted(index)) for index in epochs}) == K
    everything = TokenLoader(split, batch_size=4)
    assert sum(int(batch.valid.sum()) for batch in everything) == 6 * K


def test_one_view_needs_all_views_of_every_image(
    store: Store, corpus: Path, tmp_path: Path
) -> None:
    run("convert", store.url, "-o", tmp_path / "c", "--class", "apple")
    assert len(one_view(tokenstore.open(tmp_path / "c")["train"], 0)) == 3
    other = built(corpus, tmp_path / "plain")
    with pytest.raises(UsageError, match="--views K"):
        one_view(other["train"], 0)


def test_stores_with_views_merge_and_grow(store: Store, tmp_path: Path) -> None:
    for i in range(2):
        write_file(tmp_path / f"more/train/pear/new_{i}.jpg", encoded(picture(70 + i)))
    other = built(tmp_path / "more", tmp_path / "other", "--views", K, "--seed", 5)
    run("merge", store.url, other.url, "-o", tmp_path / "m")
    run("append", store.url, tmp_path / "more")
    for place in (store.url, tmp_path / "m"):
        grown = tokenstore.open(place)
        assert len(grown["train"]) == 8 * K
        assert len(one_view(grown["train"], 0)) == 8
        assert not verify_store(str(place))


def test_views_are_refused_beside_masks(tmp_path: Path, toy_tokenizer: str) -> None:
    corpus = write_masked_corpus(tmp_path / "in", {"train": 2})
    words = ("build", corpus, "-o", tmp_path / "s", "--tokenizer", "toy", "--image-size", 32)
    assert "does not go with masks" in run(*words, "--views", 2, fails=True)


@pytest.fixture(autouse=True)
def _toy(toy_tokenizer: str) -> None:
    """Every test here builds with it."""
