"""Folders of images and masks: who belongs to whom, what stands alone, and published layouts."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.toy_images import encoded, write_corpus
from tests.toy_masks import (
    CLASSES,
    IGNORED,
    mask,
    picture_of,
    write_class_file,
    write_file,
    write_masked_corpus,
    write_pair,
)
from tokenstore.errors import ImageRejected, SourceError, UsageError
from tokenstore.sources import open_source
from tokenstore.sources.base import Listing, Source, SourceOptions


def keys(listing: Listing) -> dict[str, list[str]]:
    return {split: [item.key for item in items] for split, items in listing.splits.items()}


def masks_of(source: Source, split: str) -> list[np.ndarray]:
    return [source.load_mask(item) for item in source.listing().splits[split]]


def test_pairs_are_recognised_with_their_classes_and_ignore_index(tmp_path: Path) -> None:
    source = open_source(str(write_masked_corpus(tmp_path, {"train": 3, "val": 2})))
    found = source.listing()
    assert source.kind == "image-masks"
    assert keys(found) == {"train": ["p0", "p1", "p2"], "val": ["p0", "p1"]}
    assert (found.classes, found.ignore_index, found.has_masks) == (CLASSES, IGNORED, True)
    assert {item.label for items in found.splits.values() for item in items} == {None}
    assert np.array_equal(masks_of(source, "train")[1], mask(501))


def test_without_split_folders_all_is_train(tmp_path: Path) -> None:
    source = open_source(str(write_masked_corpus(tmp_path, {"": 2})))
    assert keys(source.listing()) == {"train": ["p0", "p1"]}


def test_what_stands_alone_is_a_reject(tmp_path: Path) -> None:
    write_masked_corpus(tmp_path, {"train": 4})
    (tmp_path / "train/masks/p1.png").unlink()
    (tmp_path / "train/images/p2.png").unlink()
    found = open_source(str(tmp_path)).listing()
    assert keys(found) == {"train": ["p0", "p3"]}
    assert [(r.key, r.reason) for r in found.rejects] == [
        ("p1", "it has no mask: train/masks/p1.png is not there"),
        ("p2", "a mask without an image"),
    ]


def test_a_listing_differs_where_masks_or_their_ignore_index_do(tmp_path: Path) -> None:
    write_masked_corpus(tmp_path, {"train": 2})
    first = open_source(str(tmp_path)).listing().sha256()
    other = open_source(str(tmp_path), None, SourceOptions(ignore_index=255)).listing().sha256()
    write_file(tmp_path / "train/masks/p1.png", encoded(Image.new("L", (48, 32)), "PNG"))
    assert len({first, other, open_source(str(tmp_path)).listing().sha256()}) == 3


def test_classes_and_ignore_index_may_be_given(tmp_path: Path) -> None:
    write_masked_corpus(tmp_path / "in", {"train": 1})
    (tmp_path / "in/classes.json").unlink()
    with pytest.raises(SourceError, match="--classes FILE"):
        open_source(str(tmp_path / "in"))
    names = write_file(tmp_path / "names.json", json.dumps(list(CLASSES)).encode())
    found = open_source(str(tmp_path / "in"), None, SourceOptions(names, ignore_index=7)).listing()
    assert (found.classes, found.ignore_index) == (CLASSES, 7)


@pytest.mark.parametrize("inside", ["", "masks/", "images/"])
@pytest.mark.parametrize("beside", ["", "images/"])
def test_masks_may_lie_elsewhere_under_the_same_names(
    tmp_path: Path, inside: str, beside: str
) -> None:
    for split in ("train", "val"):
        image = tmp_path / "in" / split / f"{beside}a/x.png"
        write_pair(image, tmp_path / "m" / split / f"{inside}a/x.png", mask(len(split)))
    write_class_file(tmp_path / "in")
    source = open_source(str(tmp_path / "in"), None, SourceOptions(masks=str(tmp_path / "m")))
    assert source.kind == "image-masks"
    assert keys(source.listing()) == {"train": ["a/x"], "val": ["a/x"]}
    assert np.array_equal(masks_of(source, "val")[0], mask(3))


def test_masks_elsewhere_for_a_plain_folder(tmp_path: Path) -> None:
    write_pair(tmp_path / "in/x.png", tmp_path / "m/x.png", mask(0))
    write_class_file(tmp_path / "in")
    source = open_source(str(tmp_path / "in"), None, SourceOptions(masks=str(tmp_path / "m")))
    assert keys(source.listing()) == {"train": ["x"]}


def test_no_pair_at_all_is_an_error_that_names_the_first(tmp_path: Path) -> None:
    write_masked_corpus(tmp_path, {"train": 1})
    (tmp_path / "train/masks/p0.png").unlink()
    with pytest.raises(SourceError, match="train/masks/p0.png is not there"):
        open_source(str(tmp_path)).listing()


def test_images_beside_the_splits_are_refused(tmp_path: Path) -> None:
    write_masked_corpus(tmp_path, {"train": 1})
    write_file(tmp_path / "extra/x.png", encoded(picture_of(mask(0)), "PNG"))
    with pytest.raises(SourceError, match="extra"):
        open_source(str(tmp_path)).listing()


def test_a_broken_mask_costs_its_image_and_says_why(tmp_path: Path) -> None:
    write_masked_corpus(tmp_path, {"train": 2})
    write_file(tmp_path / "train/masks/p0.png", b"no mask")
    wrong = encoded(Image.new("L", (48, 32), 77), "PNG")
    write_file(tmp_path / "train/masks/p1.png", wrong)
    source = open_source(str(tmp_path))
    first, second = source.listing().splits["train"]
    with pytest.raises(ImageRejected, match="its mask: no PNG image"):
        source.load_mask(first)
    with pytest.raises(ImageRejected, match="its mask: it holds the value 77"):
        source.load_mask(second)


def test_options_of_masks_mean_nothing_to_plain_images(tmp_path: Path) -> None:
    write_corpus(tmp_path, {"train": 2})
    for said in (SourceOptions(ignore_index=3), SourceOptions(masks=str(tmp_path))):
        with pytest.raises(UsageError, match="no meaning for a source of kind 'image-folder'"):
            open_source(str(tmp_path), "image-folder", said)


def test_ade20k_counts_from_one_and_ignores_zero(tmp_path: Path) -> None:
    values = np.array([[0, 1], [150, 2]], np.uint8).repeat(8, 0).repeat(8, 1)
    for folder, name in (("training", "A_1"), ("validation", "A_2")):
        write_pair(
            tmp_path / f"images/{folder}/{name}.jpg",
            tmp_path / f"annotations/{folder}/{name}.png",
            values % 3,
        )
        write_file(
            tmp_path / f"annotations/{folder}/{name}.png", encoded(Image.fromarray(values), "PNG")
        )
    with pytest.raises(SourceError, match="objectInfo150"):
        open_source(str(tmp_path))
    lines = ["Idx\tRatio\tTrain\tVal\tName"]
    lines += [f"{i}\t0.1\t9\t1\tname{i}, other" for i in range(1, 151)]
    write_file(tmp_path / "objectInfo150.txt", "\n".join(lines).encode())
    source = open_source(str(tmp_path))
    found = source.listing()
    assert (source.kind, keys(found)) == ("ade20k", {"train": ["A_1"], "val": ["A_2"]})
    assert (found.classes[149], found.ignore_index) == ("name150", 255)
    assert masks_of(source, "train")[0][::8, ::8].tolist() == [[255, 0], [149, 1]]


def test_pascal_voc_takes_its_splits_from_its_lists(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit/VOC2012"
    for name in ("a", "b", "c", "unlisted"):
        values = np.full((16, 16), 20, np.uint8)
        values[0] = 255
        write_pair(
            root / f"JPEGImages/{name}.jpg", root / f"SegmentationClass/{name}.png", values % 3
        )
        write_file(root / f"SegmentationClass/{name}.png", encoded(Image.fromarray(values), "PNG"))
    (root / "SegmentationClass/c.png").unlink()
    write_file(root / "ImageSets/Segmentation/train.txt", b"a\nc\n")
    write_file(root / "ImageSets/Segmentation/val.txt", b"b\n")
    source = open_source(str(tmp_path / "VOCdevkit"))
    found = source.listing()
    assert (source.kind, keys(found)) == ("pascal-voc", {"train": ["a"], "val": ["b"]})
    assert (len(found.classes), found.classes[20], found.ignore_index) == (21, "tvmonitor", 255)
    assert [r.key for r in found.rejects] == ["c"]
    assert sorted(set(masks_of(source, "val")[0].ravel().tolist())) == [20, 255]


def test_a_voc_list_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    for folder in ("JPEGImages", "SegmentationClass"):
        (tmp_path / folder).mkdir()
    write_file(tmp_path / "ImageSets/Segmentation/train.txt", b"../../secret\n")
    with pytest.raises(SourceError, match="secret"):
        open_source(str(tmp_path)).listing()


def test_cityscapes_has_the_nineteen_classes_of_its_benchmark(tmp_path: Path) -> None:
    values = np.array([[7, 33], [0, 4]], np.uint8).repeat(8, 0).repeat(8, 1)
    stem = "aachen/aachen_000000_000019"
    write_pair(
        tmp_path / f"leftImg8bit/train/{stem}_leftImg8bit.png",
        tmp_path / f"gtFine/train/{stem}_gtFine_labelIds.png",
        values % 3,
    )
    png = encoded(Image.fromarray(values), "PNG")
    write_file(tmp_path / f"gtFine/train/{stem}_gtFine_labelIds.png", png)
    write_file(tmp_path / f"gtFine/train/{stem}_gtFine_color.png", png)
    source = open_source(str(tmp_path))
    found = source.listing()
    assert (source.kind, keys(found), found.rejects) == ("cityscapes", {"train": [stem]}, ())
    assert (len(found.classes), found.classes[18]) == (19, "bicycle")
    assert masks_of(source, "train")[0][::8, ::8].tolist() == [[0, 18], [255, 255]]
