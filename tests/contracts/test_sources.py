"""The law of the source (tokenstore/sources/base.py), over every plugin of tokenstore.sources.

A new source adds one function below that writes the same small corpus in its own form.
"""

import json
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from tests.toy_images import encoded, picture, write_corpus
from tests.toy_masks import write_class_file, write_file
from tokenstore import registry
from tokenstore.errors import ImageRejected, InputChanged, SourceError
from tokenstore.sources import open_source
from tokenstore.sources.base import Source


def image_folder(root: Path) -> str:
    return str(write_corpus(root / "corpus", {"train": 5, "val": 2}))


def pairs(root: Path, images: str, masks: str) -> str:
    """Pictures with masks; "{0}" and "{1}" in the paths stand for split and name."""
    for split, count in {"train": 5, "val": 2}.items():
        for i in range(count):
            write_file(root / images.format(split, f"p{i}"), encoded(picture(i)))
            values = Image.new("L", (40, 32), i % 2)
            write_file(root / masks.format(split, f"p{i}"), encoded(values, "PNG"))
    write_class_file(root)
    return str(root)


def image_masks(root: Path) -> str:
    return pairs(root, "{0}/images/{1}.jpg", "{0}/masks/{1}.png")


def ade20k(root: Path) -> str:
    names = "".join(f"{i}\tname{i}\n" for i in range(1, 151))
    write_file(root / "objectInfo150.txt", f"Idx\tName\n{names}".encode())
    pairs(root, "images/{0}/{1}.jpg", "annotations/{0}/{1}.png")
    for kind in ("images", "annotations"):
        (root / kind / "train").rename(root / kind / "training")
        (root / kind / "val").rename(root / kind / "validation")
    return str(root)


def pascal_voc(root: Path) -> str:
    for split, count in {"train": 5, "val": 2}.items():
        names = "".join(f"{split}p{i}\n" for i in range(count))
        write_file(root / f"ImageSets/Segmentation/{split}.txt", names.encode())
    return pairs(root, "JPEGImages/{0}{1}.jpg", "SegmentationClass/{0}{1}.png")


def cityscapes(root: Path) -> str:
    images = "leftImg8bit/{0}/town/{1}_leftImg8bit.png"
    return pairs(root, images, "gtFine/{0}/town/{1}_gtFine_labelIds.png")


def tar(root: Path) -> str:
    write_corpus(root / "photos", {"train": 5, "val": 2})
    with tarfile.open(root / "photos.tar", "w") as archive:
        archive.add(root / "photos", "photos")
    return str(root / "photos.tar")


def remote_folder(root: Path) -> str:
    corpus = write_corpus(root / "photos", {"train": 5, "val": 2})
    url = f"memory://{root.name}/photos"
    fsspec.filesystem("memory").put(str(corpus), url.removeprefix("memory:/"), recursive=True)
    return url


def image_list(root: Path) -> str:
    corpus = write_corpus(root / "photos", {"train": 5, "val": 2})
    rows = ["path,label,split"]
    for path in sorted(corpus.rglob("*.jpg")):
        split, label, _ = path.relative_to(corpus).parts
        path.rename(corpus / f"{label}_{split}_{path.name}")
        (corpus / label).mkdir(exist_ok=True)
        rows.append(f"{label}/{split}_{path.name},{label},{split}")
        (corpus / f"{label}_{split}_{path.name}").rename(corpus / label / f"{split}_{path.name}")
    write_file(corpus / "list.csv", "\n".join(rows).encode())
    return str(corpus / "list.csv")


def metadata_folder(root: Path) -> str:
    corpus = write_corpus(root / "photos", {"train": 5, "val": 2})
    for split in ("train", "val"):
        paths = sorted((corpus / split).rglob("*.jpg"))
        names = [path.relative_to(corpus / split).as_posix() for path in paths]
        lines = [json.dumps({"file_name": n, "label": n.split("/")[0]}) for n in names]
        write_file(corpus / split / "metadata.jsonl", "\n".join(lines).encode())
    return str(corpus)


def parquet(root: Path) -> str:
    corpus = write_corpus(root / "photos", {"train": 5, "val": 2})
    for split in ("train", "val"):
        paths = sorted((corpus / split).rglob("*.jpg"))
        names = [path.relative_to(corpus / split).as_posix() for path in paths]
        images = [{"bytes": p.read_bytes(), "path": n} for p, n in zip(paths, names, strict=True)]
        columns = {"image": images, "label": [name.split("/")[0] for name in names]}
        table = pyarrow.table(columns)
        (root / "tables").mkdir(exist_ok=True)
        pyarrow.parquet.write_table(table, root / f"tables/{split}-0.parquet", row_group_size=2)
    return str(root / "tables")


CORPORA: dict[str, Callable[[Path], str]] = {
    "image-folder": image_folder,
    "image-masks": image_masks,
    "ade20k": ade20k,
    "pascal-voc": pascal_voc,
    "cityscapes": cityscapes,
    "tar": tar,
    "remote-folder": remote_folder,
    "image-list": image_list,
    "metadata-folder": metadata_folder,
    "parquet": parquet,
}
KINDS = registry.names("tokenstore.sources")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(kind: str, tmp_path: Path) -> str:
    assert kind in CORPORA, f"add a corpus for the source '{kind}' to this file"
    return CORPORA[kind](tmp_path)


@pytest.fixture
def source(kind: str, place: str) -> Source:
    return open_source(place, kind)


def test_it_is_found_by_name_and_by_looking(kind: str, place: str) -> None:
    assert open_source(place).kind == open_source(place, kind).kind == kind


def test_splits_keys_labels_and_classes_are_those_of_the_corpus(source: Source) -> None:
    found = source.listing()
    assert {split: len(items) for split, items in found.splits.items()} == {"train": 5, "val": 2}
    for items in found.splits.values():
        for item in items:
            assert found.has_masks or found.classes[item.label] == item.key.partition("/")[0]
    assert found.has_masks or found.classes == ("apple", "pear")


def test_masks_are_of_the_size_of_their_pictures_and_of_known_classes(source: Source) -> None:
    found = source.listing()
    for item in found.splits["train"]:
        mask = source.load_mask(item)
        assert (mask is not None) == found.has_masks
        if mask is not None:
            assert (mask.shape, item.label) == ((32, 40), None)
            assert set(np.unique(mask)) <= {*range(len(found.classes)), found.ignore_index}


def test_keys_are_unique_in_their_split_and_fit_one_line_of_utf8(source: Source) -> None:
    for items in source.listing().splits.values():
        keys = [item.key for item in items]
        assert len(set(keys)) == len(keys)
        assert all("\n" not in key and key.encode() for key in keys)


def test_listing_twice_gives_the_same(source: Source, place: str, kind: str) -> None:
    first, second = source.listing(), open_source(place, kind).listing()
    assert first == second
    assert first.sha256() == second.sha256()


def test_size_is_the_number_of_bytes_that_are_read(source: Source) -> None:
    for item in source.listing().splits["train"]:
        assert len(source.read(item)) == item.size > 0 or (source.kind, item.size) == ("parquet", 0)


def test_images_load_in_any_order_and_from_several_threads(source: Source) -> None:
    items = source.listing().splits["train"]
    alone = [np.asarray(source.load(item)) for item in items]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda item: np.asarray(source.load(item)), items[::-1] * 3))
    for one, again in zip(alone[::-1] * 3, together, strict=True):
        assert one.dtype == np.uint8
        assert one.shape == (32, 40, 3)
        assert np.array_equal(one, again)


def test_an_image_that_is_gone_is_rejected(source: Source) -> None:
    item = source.listing().splits["train"][0]
    with pytest.raises((InputChanged, SourceError)):  # listed with a size, so it was there
        source.load(item._replace(key="gone", path=f"gone/{item.path}"))
    if source.kind != "parquet":  # whose whole file is gone
        with pytest.raises(ImageRejected):
            source.load(item._replace(key="gone", path=f"gone/{item.path}", size=0))


def test_a_place_that_does_not_exist_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        open_source(str(tmp_path / "missing"), kind).listing()
