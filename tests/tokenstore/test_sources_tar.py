"""Tars: plain ones, WebDataset shards, tars in tars; and what a hostile one cannot do."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from tests.toy_images import encoded, picture, write_corpus
from tokenstore.errors import SourceError
from tokenstore.sources import open_source
from tokenstore.sources.base import Listing, SourceOptions

PHOTO = encoded(picture(0))


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def listing(place: Path | str, **said: object) -> Listing:
    return open_source(str(place), None, SourceOptions(**said)).listing()


def keys(found: Listing) -> dict[str, list[str]]:
    return {split: [item.key for item in items] for split, items in found.splits.items()}


def test_a_tar_of_class_folders_is_the_folder_that_it_holds(tmp_path: Path) -> None:
    members = {"cat/1.jpg": PHOTO, "dog/2.b.jpg": PHOTO, "dog/notes.txt": b"x"}
    found = listing(write_tar(tmp_path / "a.tar", members))
    assert keys(found) == {"train": ["cat/1", "dog/2.b"]}
    assert found.classes == ("cat", "dog")


@pytest.mark.parametrize("outer", ["", "photos/", "./"])
def test_split_folders_and_classes_json_count_inside_of_a_tar(tmp_path: Path, outer: str) -> None:
    names = ("train/dog/1.jpg", "train/cat/2.jpg", "val/dog/3.jpg")
    members = {f"{outer}{name}": PHOTO for name in names}
    members[f"{outer}classes.json"] = b'["dog", "cat"]'
    found = listing(write_tar(tmp_path / "a.tar", members))
    assert keys(found) == {"train": ["dog/1", "cat/2"], "val": ["dog/3"]}
    assert found.classes == ("dog", "cat")


def test_webdataset_shards_have_labels_metadata_and_splits_by_name(tmp_path: Path) -> None:
    for split, shard, start in (("train", 0, 0), ("train", 1, 2), ("validation", 0, 4)):
        members = {}
        for i in range(start, start + 2):
            members[f"{i:04d}.jpg"] = encoded(picture(i))
            members[f"{i:04d}.cls"] = str(i % 2).encode()
            members[f"{i:04d}.json"] = json.dumps({"caption": f"nr {i}"}).encode()
        write_tar(tmp_path / f"x-{split}-{shard}.tar", members)
    source = open_source(str(tmp_path))
    found = source.listing()
    assert keys(found) == {"train": ["0000", "0001", "0002", "0003"], "val": ["0004", "0005"]}
    assert [item.label for item in found.splits["train"]] == [0, 1, 0, 1]
    assert found.classes == ("0", "1")
    assert json.loads(found.splits["val"][1].meta) == {"caption": "nr 5"}
    assert found.runs == {"train": (2, 2), "val": (2,)}
    for item in found.splits["train"]:
        assert source.read(item) == encoded(picture(int(item.key)))


def test_labels_may_be_names_or_lie_in_the_json(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar", {"1.jpg": PHOTO, "1.cls": b"dog\n", "2.jpg": PHOTO, "2.cls": b"cat"}
    )
    assert listing(tmp_path / "a.tar").classes == ("cat", "dog")
    write_tar(tmp_path / "b.tar", {"1.jpg": PHOTO, "1.json": b'{"label": 2}'})
    (tmp_path / "names").write_text('["a", "b", "c"]')
    found = listing(tmp_path / "b.tar", classes=tmp_path / "names")
    assert (found.classes, found.splits["train"][0].label) == (("a", "b", "c"), 2)


def test_a_pattern_chooses_tars(tmp_path: Path) -> None:
    for name in ("a-train-0", "a-train-1", "b-train-0"):
        write_tar(tmp_path / f"{name}.tar", {f"{name}.jpg": PHOTO})
    assert keys(listing(f"{tmp_path}/a-*.tar")) == {"train": ["a-train-0", "a-train-1"]}


def test_braces_name_a_row_of_tars_without_a_listing(tmp_path: Path) -> None:
    for number in ("008", "009", "010", "011"):
        write_tar(tmp_path / f"x-{number}.tar", {f"{number}.jpg": PHOTO})
    found = listing(f"{tmp_path}/x-{{008..010}}.tar")
    assert keys(found) == {"train": ["008", "009", "010"]}


def test_imagenets_tar_of_tars_has_a_class_a_tar(tmp_path: Path) -> None:
    inner = {}
    for wnid in ("n01440764", "n01443537"):
        names = {f"{wnid}_{i}.JPEG": encoded(picture(i)) for i in range(3)}
        inner[f"{wnid}.tar"] = write_tar(tmp_path / "inner" / wnid, names).read_bytes()
    source = open_source(str(write_tar(tmp_path / "ILSVRC2012_img_train.tar", inner)))
    found = source.listing()
    assert found.classes == ("n01440764", "n01443537")
    assert keys(found)["train"][:2] == ["n01440764/n01440764_0", "n01440764/n01440764_1"]
    assert found.runs == {"train": (3, 3)}
    for item in found.splits["train"]:
        assert source.read(item) == encoded(picture(int(item.key[-1])))


def test_real_tars_of_a_real_corpus_are_that_corpus(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "photos", {"train": 6, "val": 2})
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        archive.add(folder, "photos")
    packed, laid = listing(tmp_path / "photos.tar"), listing(folder)
    assert {s: sorted((i.key, i.label, i.size) for i in v) for s, v in packed.splits.items()} == {
        s: sorted((i.key, i.label, i.size) for i in v) for s, v in laid.splits.items()
    }


@pytest.mark.parametrize("cut", [100, 700, 1300, -513, -1024])
def test_a_tar_that_is_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    whole = write_tar(tmp_path / "a.tar", {"c/1.jpg": PHOTO, "c/2.jpg": PHOTO}).read_bytes()
    end = whole.rstrip(b"\0")
    kept = whole[:cut] if cut > 0 else whole[: len(end) - len(end) % -512 + cut]
    (tmp_path / "a.tar").write_bytes(kept)
    with pytest.raises(SourceError, match="Fetch it anew|no images"):
        listing(tmp_path / "a.tar")


def test_damage_in_the_midst_is_not_taken_for_the_end(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {f"c/{i}.jpg": PHOTO for i in range(4)})
    content = bytearray(path.read_bytes())
    at = content.index(b"c/2.jpg")
    content[at + 150] ^= 1  # in the header, whose sum is then wrong
    path.write_bytes(bytes(content))
    with pytest.raises(SourceError, match="damaged there"):
        listing(path)


def test_compressed_tars_are_refused_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"x")
    with pytest.raises(SourceError, match="Decompress"):
        open_source(str(tmp_path / "a.tar.gz"))


def test_links_and_devices_in_an_archive_are_rejects(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(PHOTO)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in {
            "c/sym.jpg": tarfile.SYMTYPE,
            "c/hard.jpg": tarfile.LNKTYPE,
            "c/fifo.jpg": tarfile.FIFOTYPE,
            "c/char.jpg": tarfile.CHRTYPE,
        }.items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, str(secret)
            archive.addfile(entry)
        entry = tarfile.TarInfo("c/good.jpg")
        entry.size = len(PHOTO)
        archive.addfile(entry, io.BytesIO(PHOTO))
    found = listing(tmp_path / "a.tar")
    assert keys(found) == {"train": ["c/good"]}
    reasons = {reject.key: reject.reason for reject in found.rejects}
    assert set(reasons) == {"c/sym", "c/hard", "c/fifo", "c/char"}
    assert "not followed" in reasons["c/sym"]


@pytest.mark.parametrize("name", ["../../out.jpg", "/etc/out.jpg", "c/../../../out.jpg"])
def test_names_that_point_out_of_an_archive_write_and_read_nothing(
    tmp_path: Path, name: str
) -> None:
    path = write_tar(tmp_path / "deep/down/a.tar", {"c/1.jpg": PHOTO, name: PHOTO})
    before = sorted(map(str, tmp_path.rglob("*")))
    found = listing(path)
    assert keys(found) == {"train": ["c/1"]}
    assert [reject.reason for reject in found.rejects] == ["its name points out of its archive"]
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_a_member_larger_than_its_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    entry = tarfile.TarInfo("c/1.jpg")
    entry.size = 1 << 40
    path.write_bytes(entry.tobuf() + bytes(2048))
    with pytest.raises(SourceError):
        listing(path)


def test_tars_in_tars_in_tars_are_opened_so_deep_and_no_deeper(tmp_path: Path) -> None:
    content = write_tar(tmp_path / "x", {"1.jpg": PHOTO}).read_bytes()
    for _ in range(6):
        content = write_tar(tmp_path / "x", {"in.tar": content}).read_bytes()
    write_tar(tmp_path / "a.tar", {"in.tar": content, "c/1.jpg": PHOTO})
    assert keys(listing(tmp_path / "a.tar")) == {"train": ["c/1"]}


def test_a_tar_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no images"):
        listing(write_tar(tmp_path / "a.tar", {"a.txt": b"x"}))


def test_bytes_that_are_no_tar_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(os.urandom(4096))
    with pytest.raises(SourceError, match="no whole tar"):
        listing(tmp_path / "a.tar")
