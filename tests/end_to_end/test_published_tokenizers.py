"""From checkpoints in their published form to stores and back, by the commands that users type.

The checkpoints of ../shared/golden have the upstream layout and random weights; `tokens.npy` is
what the upstream code gives for `images.npy`, which need no resizing.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import tokenstore
from tests.conftest import SHARED
from tokenstore.cli.main import main
from tokenstore.errors import Mismatch

GOLDEN = SHARED / "golden"
pytestmark = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="needs the golden tokens in ../shared/golden, which are not here"
)
COUNT = 3  # images of each set


@dataclass(frozen=True)
class Published:
    """A golden set: the tokenizer's name, and its folder and file."""

    name: str
    folder: str
    file: str
    rule: str
    size: tuple[str, ...] = ()  # where neither weights nor yaml tell that of the images

    @property
    def words(self) -> list[str]:
        """The options that load it."""
        place = GOLDEN / self.folder
        return ["--weights", str(place / self.file), "--config", str(place / "model.yaml")]

    def array(self, name: str) -> np.ndarray:
        """The first arrays of one of its files."""
        return np.load(GOLDEN / self.folder / f"{name}.npy")[:COUNT]

    def write_images(self, folder: Path) -> Path:
        """Its images as files."""
        folder.mkdir()
        for number, pixels in enumerate(self.array("images")):
            Image.fromarray(pixels).save(folder / f"{number}.png")
        return folder


SETS = [
    Published("vit-vqgan", "vitvq", "imagenet_vitvq_small_golden.ckpt", "squash-bilinear"),
    Published("vqgan-f16-1024", "vqgan_f16", "last.ckpt", "center-crop-opencv"),
    Published("vqgan-gumbel-f8", "gumbel_f8", "last.ckpt", "center-crop-opencv"),
    Published("vqgan-f8-256", "ldm_f8", "model.ckpt", "center-crop-opencv"),
    Published(
        "llamagen-16", "llamagen16", "vq_model.pt", "center-crop-box", ("--image-size", "128")
    ),
]


@pytest.fixture(params=SETS, ids=lambda published: published.name)
def published(request: pytest.FixtureRequest) -> Published:
    return request.param


def run(*words: object) -> Result:
    return CliRunner().invoke(main, list(map(str, words)))


def built(*words: object) -> tokenstore.Store:
    result = run("build", *words)
    assert result.exit_code == 0, result.output
    return tokenstore.open(words[words.index("-o") + 1])


def ids_by_number(store: tokenstore.Store) -> np.ndarray:
    """The ids of all images, in the order of their file names."""
    samples = sorted(store["train"][:], key=lambda sample: int(str(sample.key)))
    return np.stack([store.ids(sample.ranks) for sample in samples])


def test_a_store_holds_the_published_tokens_and_decodes_with_the_same_files(
    published: Published, tmp_path: Path
) -> None:
    images = published.write_images(tmp_path / "images")
    words = ("--tokenizer", published.name, *published.words, *published.size)
    store = built(images, "-o", tmp_path / "s", *words)
    assert np.array_equal(ids_by_number(store), published.array("tokens"))
    assert store.manifest.preprocess["rule"] == published.rule
    tokenizer = store.tokenizer(weights=published.words[1], config=published.words[3])
    decoded = tokenizer.decode(published.array("tokens")).numpy()
    expected = published.array("decoded")
    assert np.abs(decoded[: len(expected)] - expected).max() < 1e-4
    shown = run("show", tmp_path / "s", "0", "-o", tmp_path / "0.png", *published.words)
    assert shown.exit_code == 0, shown.output


def test_image_size_alone_keeps_the_published_resize_rule(
    published: Published, tmp_path: Path
) -> None:
    images = published.write_images(tmp_path / "images")
    side = 2 * published.array("images").shape[1]
    words = ("--tokenizer", published.name, *published.words, "--image-size", side, "--limit", "1")
    store = built(images, "-o", tmp_path / "s", *words)
    assert store.manifest.preprocess == {"rule": published.rule, "size": [side, side]}


def test_a_vocabulary_binds_later_images_to_its_codes(published: Published, tmp_path: Path) -> None:
    images = published.write_images(tmp_path / "images")
    words = ("--tokenizer", published.name, *published.words, *published.size)
    old = built(images, "-o", tmp_path / "old", *words, "--limit", "1")
    new = built(images, "-o", tmp_path / "new", "--vocabulary", old.url, *published.words)
    assert new.vocabulary_fingerprint == old.vocabulary_fingerprint
    ids, free = ids_by_number(new), published.array("tokens")
    allowed = np.isin(free, old.vocabulary.ids)
    assert 0 < allowed.mean() < 1
    assert np.array_equal(ids[allowed], free[allowed])
    assert np.isin(ids, old.vocabulary.ids).all()


def test_other_weights_than_those_of_the_store_are_refused(tmp_path: Path) -> None:
    gumbel, f16 = SETS[2], SETS[1]
    images = f16.write_images(tmp_path / "images")
    built(images, "-o", tmp_path / "s", "--tokenizer", f16.name, *f16.words)
    store = tokenstore.open(tmp_path / "s")
    changed = tmp_path / "changed.ckpt"
    changed.write_bytes(Path(f16.words[1]).read_bytes() + b"\0")
    with pytest.raises((Mismatch, tokenstore.errors.WeightsError)):
        store.tokenizer(weights=str(changed), config=f16.words[3])
    refused = run("show", tmp_path / "s", "0", "-o", tmp_path / "x.png", *gumbel.words)
    assert refused.exit_code == 2
    assert "gumbel" in refused.stderr


def test_encode_prints_the_published_tokens(published: Published, tmp_path: Path) -> None:
    image = published.write_images(tmp_path / "images") / "1.png"
    words = ("--tokenizer", published.name, *published.words, *published.size, "--json")
    result = run("encode", image, *words)
    assert result.exit_code == 0, result.output
    (facts,) = json.loads(result.stdout)
    assert np.array_equal(facts["ids"], published.array("tokens")[1])
