"""Stopping work at a chosen write, as a kill would, without killing the test."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tokenstore.storage import LocalStorage


class Stopped(Exception):
    """Stands for the end of the process at one moment."""


@contextmanager
def stopping(monkeypatch: pytest.MonkeyPatch, after: int) -> Iterator[None]:
    """Stop at the write number `after`, leaving its half-written file behind as a kill would."""
    writing, done = LocalStorage.writing, 0

    @contextmanager
    def counted(self: LocalStorage, name: str) -> Iterator[object]:
        nonlocal done
        if done == after:
            partial = Path(self.url) / f"{name}.partial"
            partial.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(b"half of it")
            raise Stopped
        done += 1
        with writing(self, name) as file:
            yield file

    with monkeypatch.context() as patched:
        patched.setattr(LocalStorage, "writing", counted)
        yield
