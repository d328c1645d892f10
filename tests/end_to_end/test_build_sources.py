"""From every kind of source to a store: labels, metadata, order and rejects."""

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner
from PIL import Image

import tokenstore
from tests.toy_images import encoded, picture, write_corpus
from tests.toy_masks import write_file
from tokenstore.cli.main import main
from tokenstore.reader import Store
from tokenstore.verify import verify_store


@pytest.fixture(autouse=True)
def _toy(toy_tokenizer: str) -> None:
    """Every test here builds with it."""


def run(*words: object) -> str:
    ran = CliRunner().invoke(main, [str(word) for word in words])
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def built(images: Path, place: Path, *more: object) -> Store:
    run("build", images, "-o", place, "--tokenizer", "toy", "--image-size", 32, *more)
    assert not verify_store(str(place))
    return tokenstore.open(place)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "photos", {"train": 9, "val": 3})


def by_key(store: Store) -> dict[tuple[str, str], tuple[str, list[list[int]]]]:
    """Class and ids by split and key."""
    return {
        (name, sample.key): (split.classes[sample.label], store.ids(sample.ranks).tolist())
        for name, split in store.items()
        for sample in split
    }


def packed(corpus: Path, tar: Path) -> Path:
    with tarfile.open(tar, "w") as archive:
        archive.add(corpus, "photos")
    return tar


def listed(corpus: Path) -> Path:
    rows = io.StringIO()
    writer = csv.writer(rows)
    writer.writerow(["path", "label", "split", "bytes"])
    for path in sorted(corpus.rglob("*.jpg")):
        split, label, _ = path.relative_to(corpus).parts
        writer.writerow([path.relative_to(corpus), label, split, path.stat().st_size])
    return write_file(corpus / "list.csv", rows.getvalue().encode())


def tabled(corpus: Path, folder: Path) -> Path:
    folder.mkdir()
    for split in ("train", "val"):
        paths = sorted((corpus / split).rglob("*.jpg"))
        names = [path.relative_to(corpus / split).as_posix() for path in paths]
        images = [{"bytes": p.read_bytes(), "path": n} for p, n in zip(paths, names, strict=True)]
        table = pyarrow.table({"image": images, "label": [n.split("/")[0] for n in names]})
        pyarrow.parquet.write_table(table, folder / f"{split}.parquet", row_group_size=4)
    return folder


def test_a_tar_and_parquet_make_the_samples_of_their_folder(corpus: Path, tmp_path: Path) -> None:
    laid = by_key(built(corpus, tmp_path / "a"))
    tar = built(packed(corpus, tmp_path / "photos.tar"), tmp_path / "b")
    tables = built(tabled(corpus, tmp_path / "tables"), tmp_path / "c", "--workers", 3)
    assert by_key(tar) == by_key(tables) == laid
    orders = [store.manifest.order.rule for store in (tar, tables)]
    assert orders == ["archives-16384", "archives-1024"]
    assert [sample.key for sample in tables["train"]] != sorted(s.key for s in tables["train"])


def test_order_input_keeps_the_order_of_an_archive(corpus: Path, tmp_path: Path) -> None:
    tar = packed(corpus, tmp_path / "photos.tar")
    store = built(tar, tmp_path / "s", "--order", "input")
    with tarfile.open(tar) as archive:
        names = [m.name for m in archive if m.isfile() and "/train/" in m.name]
    assert [f"photos/train/{s.key}.jpg" for s in store["train"]] == names
    assert store.manifest.order.rule == "input"


def test_columns_of_a_list_become_metadata(corpus: Path, tmp_path: Path) -> None:
    store = built(listed(corpus), tmp_path / "s", "--limit", 4)
    for sample in store["train"]:
        file = corpus / f"{sample.key}.jpg"
        assert sample.meta == {"bytes": str(file.stat().st_size)}
        assert store.manifest.classes[sample.label] == file.parent.name


def test_seed_workers_and_parts_change_only_what_they_should(corpus: Path, tmp_path: Path) -> None:
    tar = packed(corpus, tmp_path / "photos.tar")
    first = built(tar, tmp_path / "a", "--workers", 1)
    assert built(tar, tmp_path / "b", "--workers", 3).fingerprint == first.fingerprint
    other = built(tar, tmp_path / "c", "--seed", 1)
    assert by_key(other) == by_key(first)
    assert [s.key for s in other["train"]] != [s.key for s in first["train"]]


def test_every_reject_is_listed_with_its_reason_and_counted(corpus: Path, tmp_path: Path) -> None:
    folder = corpus / "train/apple"
    write_file(folder / "text.jpg", b"no image")
    write_file(folder / "empty.png", b"")
    write_file(folder / "cut.jpg", encoded(picture(0))[:200])
    write_file(folder / "thread.png", encoded(Image.new("L", (9000, 2)), "PNG"))
    write_file(folder / "bomb.png", encoded(Image.new("1", (30_000, 30_000)), "PNG"))
    write_file(folder / "photo_000.png", encoded(picture(0), "PNG"))
    words = ["build", corpus, "-o", tmp_path / "s", "--tokenizer", "toy", "--image-size", 32]
    facts = json.loads(run(*words, "--json"))
    assert (facts["rejects"], facts["splits"]["train"]) == (6, 9)
    (file,) = (tmp_path / "s").glob("rejects-*.parquet")
    rows = pyarrow.parquet.read_table(file).to_pylist()
    reasons = {row["key"].rpartition("/")[2]: row["reason"] for row in rows}
    assert list(rows[0]) == ["split", "key", "path", "reason"]
    assert reasons.pop("photo_000") == "its key is already that of train/apple/photo_000.jpg"
    assert reasons.pop("cut").startswith("damaged image")
    assert reasons == {
        "text": "no JPEG, PNG, WebP or BMP image",
        "empty": "the file is empty",
        "thread": "9000x2 is narrower than 1:100",
        "bomb": "more than 89,478,485 pixels",
    }
    assert "rejects" in run("info", tmp_path / "s")


def test_hostile_archives_cost_what_is_hostile_in_them(tmp_path: Path) -> None:
    tar = tmp_path / "deep" / "photos.tar"
    tar.parent.mkdir()
    with tarfile.open(tar, "w") as archive:
        for name in ("c/1.jpg", "../../evil.jpg", "/evil.jpg"):
            entry = tarfile.TarInfo(name)
            entry.size = len(encoded(picture(1)))
            archive.addfile(entry, io.BytesIO(encoded(picture(1))))
        link = tarfile.TarInfo("c/link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    store = built(tar, tmp_path / "s")
    assert [sample.key for sample in store["train"]] == ["c/1"]
    assert store.manifest.rejects.count == 3
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert not {"evil.jpg", "link.jpg"} & left
    assert np.array_equal(store["train"][0].ranks.shape, (4, 4))
