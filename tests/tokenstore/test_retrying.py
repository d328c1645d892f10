"""A network that fails now and then is tried again, and one that fails for good is named."""

from collections.abc import Callable

import fsspec
import pytest

from tokenstore import retrying
from tokenstore.errors import StoreError
from tokenstore.retrying import retried
from tokenstore.storage import open_storage


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were made, without making them."""
    made: list[float] = []
    monkeypatch.setattr(retrying.time, "sleep", made.append)
    return made


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = [error] * times

    def call() -> str:
        if left:
            raise left.pop()
        return "done"

    return call


def test_what_fails_now_and_then_succeeds_after_growing_pauses(pauses: list[float]) -> None:
    assert retried(failing(3, ConnectionError("reset")), "s3://b") == "done"
    assert pauses == [0.5, 1.0, 2.0]
    assert retried(failing(5, TimeoutError()), "s3://b") == "done"


def test_what_fails_for_good_is_named_with_the_last_reason(pauses: list[float]) -> None:
    with pytest.raises(StoreError, match=r"'s3://b' failed 6 times in 16 s.*: reset"):
        retried(failing(99, ConnectionError("reset")), "s3://b")
    assert len(pauses) == 5


@pytest.mark.parametrize("error", [FileNotFoundError("x"), FileExistsError("x"), PermissionError()])
def test_what_can_never_succeed_is_not_tried_again(pauses: list[float], error: Exception) -> None:
    with pytest.raises(type(error)):
        retried(failing(1, error), "s3://b")
    assert pauses == []


@pytest.mark.parametrize("times", [2, 99])
def test_a_remote_storage_does_not_give_up_at_once(
    monkeypatch: pytest.MonkeyPatch, pauses: list[float], times: int
) -> None:
    system = type(fsspec.filesystem("memory"))
    place = f"memory://retrying{times}"
    open_storage(place).create("a/b", b"content")
    cat, left = system.cat_file, [ConnectionError("reset")] * times

    def flaky(self: object, path: str, *words: object, **options: object) -> bytes:
        if left:
            raise left.pop()
        content: bytes = cat(self, path, *words, **options)
        return content

    monkeypatch.setattr(system, "cat_file", flaky)
    if times == 2:
        assert open_storage(place).read("a/b") == b"content"
        assert len(pauses) == 2
    else:
        with pytest.raises(StoreError, match=f"'{place}' failed 6 times"):
            open_storage(place).read("a/b")


def test_a_network_that_fails_is_no_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    system = type(fsspec.filesystem("memory"))
    storage = open_storage("memory://absence")
    storage.create("there", b"x")
    assert (storage.exists("there"), storage.exists("not")) == (True, False)

    def broken(self: object, path: str, **options: object) -> dict[str, object]:
        raise ConnectionError("reset")

    monkeypatch.setattr(system, "info", broken)
    with pytest.raises(StoreError, match="failed 6 times"):
        storage.exists("there")
