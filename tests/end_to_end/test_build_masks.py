"""From images with masks to a store with masks, read back, loaded, merged and shown."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import tokenstore
from tests.toy_images import encoded
from tests.toy_masks import CLASSES, IGNORED, mask, write_file, write_masked_corpus
from tokenstore.cli.main import main
from tokenstore.errors import UsageError
from tokenstore.loader import TokenLoader
from tokenstore.mixture import MixedSplit
from tokenstore.reader import Store
from tokenstore.verify import verify_store


def run(*words: object) -> str:
    ran = CliRunner().invoke(main, [str(word) for word in words])
    assert ran.exit_code == 0, ran.output
    return ran.stdout


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_masked_corpus(tmp_path / "in", {"train": 6, "val": 3})


@pytest.fixture
def store(corpus: Path, tmp_path: Path, toy_tokenizer: str) -> Store:
    return built(corpus, tmp_path / "s.tokenstore")


def built(corpus: Path, place: Path, *more: object) -> Store:
    run("build", corpus, "-o", place, "--tokenizer", "toy", "--image-size", 32, *more)
    return tokenstore.open(place)


def expected(key: str, split: str) -> np.ndarray:
    """The middle 32 of 48 columns, which is what center-crop leaves of 48 x 32 pixels."""
    return mask(100 * len(split) + int(key[1:]))[:, 8:40]


def test_masks_are_cropped_with_their_images_and_kept_without_loss(store: Store) -> None:
    for split in store.values():
        for sample in split:
            assert np.array_equal(sample.mask, expected(sample.key, split.name))
    assert store.manifest.classes == CLASSES
    assert store.manifest.ignore_index == IGNORED
    assert store["train"].labels is None
    assert not verify_store(store.url)


def test_a_batch_has_masks_where_they_are_asked_for(store: Store) -> None:
    batch = store["train"].read([4, 1, 4], keys=True, masks=True)
    assert batch.masks.shape == (3, 32, 32)
    assert batch.masks.dtype == np.uint8
    for key, found in zip(batch.keys, batch.masks, strict=True):
        assert np.array_equal(found, expected(key, "train"))
    assert store["train"].read([0]).masks is None
    assert store["train"].read([], masks=True).masks.shape[0] == 0


@pytest.mark.parametrize("residency", ["stream", "ram", "device"])
def test_a_loader_brings_masks_to_the_device_of_the_ranks(store: Store, residency: str) -> None:
    split = store["train"]
    loader = TokenLoader(
        split, batch_size=4, device="cpu", residency=residency, keys=True, masks=True
    )
    seen = 0
    for batch in loader:
        assert batch.masks.dtype == torch.uint8
        assert batch.masks.shape == (4, 32, 32)
        for key, found in zip(batch.keys, batch.masks.numpy(), strict=True):
            assert np.array_equal(found, expected(key, "train"))
            seen += 1
    assert seen == 8
    assert next(iter(TokenLoader(split, batch_size=4, device="cpu"))).masks is None


def test_a_loader_skips_a_damaged_mask_if_told_so(store: Store) -> None:
    place = Path(store.url) / "train-000000.tar"
    content = bytearray(place.read_bytes())
    payload = store["train"].shards.open(0).record("mask", 2)
    at = bytes(content).index(payload) + len(payload) // 2
    content[at] ^= 1
    place.write_bytes(content)
    split = tokenstore.open(store.url)["train"]
    loader = TokenLoader(
        split, batch_size=6, on_error="skip", shuffle="none", masks=True, residency="stream"
    )
    batch = next(iter(loader))
    assert batch.valid.tolist() == [True, True, False, True, True, True]
    assert not batch.masks[2].any()
    assert list(loader.skipped) == split.keys([2])
    assert batch.masks[3].any()


def test_masks_that_are_not_there_cannot_be_loaded(tmp_path: Path, toy_tokenizer: str) -> None:
    write_file(tmp_path / "in/x.png", encoded(Image.new("RGB", (40, 40)), "PNG"))
    store = built(tmp_path / "in", tmp_path / "s.tokenstore")
    assert store["train"].read([0], masks=True).masks is None
    with pytest.raises(UsageError, match="no masks"):
        TokenLoader(store["train"], batch_size=1, masks=True)


def test_what_does_not_fit_is_a_reject_with_its_reason(corpus: Path, tmp_path: Path) -> None:
    write_file(corpus / "train/masks/p0.png", encoded(Image.new("L", (48, 32), 55), "PNG"))
    write_file(corpus / "train/masks/p1.png", encoded(Image.new("L", (32, 48)), "PNG"))
    (corpus / "train/masks/p2.png").unlink()
    (corpus / "train/images/p3.png").unlink()
    store = built(corpus, tmp_path / "s.tokenstore")
    assert sorted(s.key for s in store["train"]) == ["p4", "p5"]
    told = {reject.key: reject.reason for reject in tokenstore_rejects(store)}
    assert "value 55" in told["p0"]
    assert told["p1"] == "its mask is 32x48, the image 48x32"
    assert "no mask" in told["p2"]
    assert told["p3"] == "a mask without an image"


def tokenstore_rejects(store: Store) -> list:
    from tokenstore.listed import load_rejects

    return list(load_rejects(store.storage, store.manifest.rejects))


@pytest.fixture(autouse=True)
def _toy(toy_tokenizer: str) -> None:
    """Every test here builds with it."""


def test_workers_and_interruptions_change_no_byte(store: Store, corpus: Path) -> None:
    other = built(corpus, Path(store.url).with_name("other"), "--workers", 1)
    assert other.fingerprint == store.fingerprint


def test_info_and_show_tell_of_masks(store: Store, tmp_path: Path) -> None:
    facts = json.loads(run("info", store.url, "--json"))
    assert facts["ignore_index"] == IGNORED
    assert facts["splits"]["train"]["bytes_an_image"]["masks"] > 4
    assert "  masks " in run("info", store.url)
    run("show", store.url, 0, "-o", tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as image:
        assert image.size == (64, 32)
        right = np.asarray(image)[:, 32:]
    sample = store["train"][0]
    for value in np.unique(sample.mask):
        assert len(np.unique(right[sample.mask == value], axis=0)) == 1
    assert (right[sample.mask == IGNORED] == 255).all()


def test_a_report_shows_masks_and_what_they_cost(store: Store, tmp_path: Path) -> None:
    run("report", store.url, "-o", tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert page.count('alt="mask of') == 6
    assert "Masks" in page
    assert "masks=True" in page


def test_a_mixture_has_masks_where_all_mean_the_same_classes(store: Store) -> None:
    mixed = MixedSplit([store["train"], store["train"]])
    batch = mixed.read([0, 7, 6], masks=True)
    for row, number in enumerate((0, 1, 0)):
        assert np.array_equal(batch.masks[row], store["train"][number].mask)
    changed = store.manifest.model_copy(update={"ignore_index": 200})
    other = Store(store.storage, changed)["train"]
    assert "mask" not in MixedSplit([store["train"], other]).columns


def test_a_converted_a_merged_and_a_grown_store_keep_masks(
    store: Store, corpus: Path, tmp_path: Path
) -> None:
    run("convert", store.url, "-o", tmp_path / "c", "--codec", "gzip")
    more = write_masked_corpus(tmp_path / "more", {"train": 9})
    for i in range(6):
        for kind in ("images", "masks"):
            (more / f"train/{kind}/p{i}.png").unlink()
    other = built(more, tmp_path / "other")
    run("merge", store.url, other.url, "-o", tmp_path / "m")
    run("append", store.url, more)
    for place, count in ((tmp_path / "c", 6), (tmp_path / "m", 9), (store.url, 9)):
        opened = tokenstore.open(place)
        assert len(opened["train"]) == count
        assert opened.manifest.ignore_index == IGNORED
        for sample in opened["train"]:
            assert np.array_equal(sample.mask, expected(sample.key, "train"))
        assert not verify_store(str(place))


def test_masks_of_other_classes_are_neither_appended_nor_merged(
    store: Store, tmp_path: Path
) -> None:
    more = write_masked_corpus(tmp_path / "more", {"train": 2})
    text = (more / "classes.json").read_text().replace(str(IGNORED), "200")
    (more / "classes.json").write_text(text)
    for i in range(2):
        write_file(more / f"train/masks/p{i}.png", encoded(Image.new("L", (48, 32)), "PNG"))
    other = built(more, tmp_path / "other")
    for words in (
        ["append", store.url, more],
        ["merge", store.url, other.url, "-o", tmp_path / "m"],
    ):
        ran = CliRunner().invoke(main, [str(word) for word in words])
        assert ran.exit_code == 2
        assert "masks" in ran.stderr


def test_verify_finds_a_mask_value_that_no_class_has(store: Store, tmp_path: Path) -> None:
    manifest = store.manifest.model_copy(
        update={"ignore_index": 200, "version": 1, "parent": store.fingerprint, "hash": None}
    )
    from tokenstore.manifest import publish

    publish(store.storage, manifest)
    findings = verify_store(store.url)
    assert {finding.found for finding in findings if finding.what == "mask"} == {str(IGNORED)}
