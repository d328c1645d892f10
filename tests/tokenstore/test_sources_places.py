"""Places: local folders and URLs alike; http in ranges; no credentials in URLs."""

import pickle
import tarfile
from pathlib import Path

import fsspec
import pytest

from tests.http_folder import serve
from tests.toy_images import write_corpus
from tests.toy_masks import write_file
from tokenstore.errors import ImageRejected, SourceError, UsageError
from tokenstore.sources import open_source
from tokenstore.sources.base import MAX_BYTES
from tokenstore.sources.places import Found, Place
from tokenstore.storage import open_storage


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "photos", {"train": 6, "val": 2})


@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_files_are_listed_and_read_alike_everywhere(tmp_path: Path, scheme: str) -> None:
    for name, content in {"b/2.bin": b"22", "a.bin": b"0123456789", ".hidden": b"x"}.items():
        write_file(tmp_path / "p" / name, content)
    root = f"{scheme}{tmp_path}/p"
    if scheme == "memory://":
        fsspec.filesystem("memory").put(f"{tmp_path}/p", f"{tmp_path}/p", recursive=True)
    place = pickle.loads(pickle.dumps(Place(root)))
    assert place.files() == [Found("a.bin", 10), Found("b/2.bin", 2)]
    assert place.read("b/2.bin") == b"22"
    assert place.read("a.bin", 3, 4) == b"3456"
    assert place.size("a.bin") == 10
    with place.open("a.bin") as file:
        file.seek(8)
        assert file.read() == b"89"
    with pytest.raises(ImageRejected, match="cannot be read"):
        place.read("gone")


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:very-secret@bucket/photos",
        "https://host/a.tar?X-Amz-Signature=very-secret",
        "https://host/a.parquet?token=very-secret",
    ],
)
def test_a_url_with_credentials_in_it_is_refused_and_not_repeated(url: str) -> None:
    for opened in (open_source, open_storage):
        with pytest.raises(UsageError, match="environment") as caught:
            opened(url)
        assert "very-secret" not in str(caught.value)


def test_a_url_with_credentials_is_not_repeated_where_its_file_system_is_not_installed(monkeypatch):
    def missing(url):
        raise ImportError(f"Install s3fs to access {url}")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    for opened in (open_source, open_storage):
        with pytest.raises(UsageError, match="environment") as caught:
            opened("s3://key:very-secret@bucket/photos")
        assert "very-secret" not in str(caught.value)


def test_a_tar_behind_http_is_read_in_ranges(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    with tarfile.open(tmp_path / "served/photos.tar", "w") as archive:
        archive.add(corpus, "photos")
    with serve(tmp_path / "served") as place:
        source = open_source(f"{place.url}/photos.tar")
        items = source.listing().splits["train"]
        place.gets.clear()
        place.ranges.clear()
        for item in items:
            assert source.read(item) == next(
                p.read_bytes()
                for p in corpus.rglob("*.jpg")
                if item.path.endswith(p.relative_to(corpus).as_posix())
            )
        assert place.ranges == ["photos.tar"] * len(items)
        assert not place.gets


def test_a_file_of_absurd_size_is_rejected_without_being_read(tmp_path: Path) -> None:
    write_corpus(tmp_path, {"train": 1})
    with (tmp_path / "train/apple/large.jpg").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    source = open_source(str(tmp_path))
    large = next(i for i in source.listing().splits["train"] if i.key == "apple/large")
    with pytest.raises(ImageRejected, match="bytes are more than"):
        source.load(large)


def test_a_url_of_a_kind_that_is_not_installed_says_so() -> None:
    with pytest.raises(SourceError, match="cannot open 'nothing://x/y'"):
        open_source("nothing://x/y").listing()
