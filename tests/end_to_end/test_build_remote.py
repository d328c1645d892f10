"""Builds from and into object storage, by a real S3 API."""

import json
import logging
import tarfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from click.testing import CliRunner

import tokenstore
from tests.s3_server import ENVIRONMENT, s3_server
from tests.toy_images import write_corpus
from tokenstore.cli.main import main
from tokenstore.verify import verify_store

pytest.importorskip("s3fs", reason="needs s3fs")
pytest.importorskip("moto.server", reason="needs moto[server], which plays S3")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server("tokens") as url:
        yield url


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "photos", {"train": 6, "val": 2})


@pytest.fixture(autouse=True)
def _toy(toy_tokenizer: str) -> None:
    """Every test here builds with it."""


def build(images: object, place: object, *more: object) -> str:
    words = ["build", images, "-o", place, "--tokenizer", "toy", "--image-size", 32, *more]
    ran = CliRunner().invoke(main, [str(word) for word in words])
    assert ran.exit_code == 0, ran.output
    return ran.stdout + ran.stderr


def upload(folder: Path, url: str) -> str:
    fsspec.filesystem("s3").put(f"{folder}/", url.removeprefix("s3://") + "/", recursive=True)
    return url


def test_a_store_is_built_from_s3_into_s3_and_read_from_there(bucket: str, corpus: Path) -> None:
    images = upload(corpus, f"{bucket}/one/photos")
    place = f"{bucket}/one/made.tokenstore"
    build(images, place, "--part-size", 2)
    store = tokenstore.open(place)
    assert (len(store["train"]), len(store["val"])) == (6, 2)
    assert not verify_store(place)
    assert not fsspec.filesystem("s3").exists(f"{place}.building")
    assert "is whole already" in build(images, place, "--part-size", 2)


def test_bytes_do_not_depend_on_where_a_store_is_made(
    bucket: str, corpus: Path, tmp_path: Path
) -> None:
    build(corpus, tmp_path / "here")
    build(corpus, f"{bucket}/two/there")
    assert tokenstore.open(tmp_path / "here").fingerprint == (
        tokenstore.open(f"{bucket}/two/there").fingerprint
    )


def test_tars_on_s3_and_on_a_disk_make_the_same_store(
    bucket: str, corpus: Path, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        archive.add(corpus, "photos")
    build(tmp_path / "photos.tar", tmp_path / "here")
    fsspec.filesystem("s3").put(str(tmp_path / "photos.tar"), "tokens/three/photos.tar")
    build(f"{bucket}/three/photos.tar", tmp_path / "there")
    here, there = tokenstore.open(tmp_path / "here"), tokenstore.open(tmp_path / "there")
    assert here.fingerprint == there.fingerprint
    assert here.manifest.order.rule == "archives-16384"
    assert {s.key for s in here["train"]} == {
        p.relative_to(corpus / "train").with_suffix("").as_posix()
        for p in (corpus / "train").rglob("*.jpg")
    }


def test_credentials_are_nowhere_in_what_is_written_or_said(
    bucket: str, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        images = upload(corpus, f"{bucket}/four/photos")
        said = build(images, f"{bucket}/four/s", "--json")
    system, written = fsspec.filesystem("s3"), b""
    for path in system.find("tokens/four/s"):
        written += path.encode() + system.cat_file(path)
    heard = said + caplog.text
    for secret in (ENVIRONMENT["AWS_SECRET_ACCESS_KEY"], ENVIRONMENT["AWS_ACCESS_KEY_ID"]):
        assert secret.encode() not in written
        assert secret not in heard
    assert "127.0.0.1" not in json.dumps(json.loads(said.splitlines()[-1]))
