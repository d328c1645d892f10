"""A store built at a URL that fails now and then has the bytes of one in a folder."""

from pathlib import Path

import fsspec
import pytest
from click.testing import CliRunner, Result

from tests.toy_images import write_corpus
from tokenstore import retrying
from tokenstore.cli.main import main
from tokenstore.storage import open_storage

pytestmark = pytest.mark.usefixtures("toy_tokenizer")
SMALL = ("--tokenizer", "toy", "--part-size", "4", "--batch-size", "3")


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [*map(str, words)])


def content(place: str) -> dict[str, bytes]:
    storage = open_storage(place)
    return {name: storage.read(name) for name in storage.names()}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "photos", {"train": 10, "val": 4})


def test_steps_at_a_url_that_fails_now_and_then_give_the_bytes_of_a_folder(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "memory://build-steps/s"
    system = type(fsspec.filesystem("memory"))
    monkeypatch.setattr(retrying.time, "sleep", lambda seconds: None)
    calls = {"cat_file": 0, "pipe_file": 0, "info": 0}

    def now_and_then(name: str) -> None:
        method = getattr(system, name)

        def flaky(self: object, *words: object, **options: object) -> object:
            calls[name] += 1
            if calls[name] % 3 == 2:
                raise ConnectionError("reset by peer")
            return method(self, *words, **options)

        monkeypatch.setattr(system, name, flaky)

    for name in calls:
        now_and_then(name)
    for words in (["plan", corpus, "-o", place, *SMALL],
                  ["build", corpus, "-o", place, *SMALL, "--part", "0/2"],
                  ["build", corpus, "-o", place, *SMALL, "--part", "1/2"],
                  ["finish", place]):  # fmt: skip
        result = run(*words)
        assert result.exit_code == 0, result.output
    assert all(count > 5 for count in calls.values())
    assert run("build", corpus, "-o", tmp_path / "s", *SMALL).exit_code == 0
    assert content(place) == content(str(tmp_path / "s"))
    assert open_storage(f"{place}.building").names() == []


def test_a_remote_that_fails_for_good_is_named(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = type(fsspec.filesystem("memory"))
    monkeypatch.setattr(retrying.time, "sleep", lambda seconds: None)

    def broken(self: object, *words: object, **options: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(system, "pipe_file", broken)
    result = run("build", corpus, "-o", "memory://build-broken/s", *SMALL)
    assert result.exit_code == 2
    assert "'memory://build-broken/s.building' failed 6 times" in result.stderr
    assert "ConnectionError: no route" in result.stderr
