"""Trying again what a network failed to do, with growing pauses, and an end that names the place.

What can never succeed (no such file, no permission, a name that is taken) is not tried again.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

from tokenstore.errors import StoreError, TokenstoreError

T = TypeVar("T")

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds; a request that is throttled needs some
FINAL = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    ImportError,
    NotImplementedError,
    TypeError,
    ValueError,
    TokenstoreError,
)


def retried(call: Callable[[], T], place: str) -> T:
    """What `call` gives, as soon as it succeeds.

    Raises:
        StoreError: it failed again and again; `place` and the last reason are named.
    """
    for pause in PAUSES:
        try:
            return call()
        except FINAL:
            raise
        # Every file system has errors of its own, and most of them tell of the network.
        except Exception:
            time.sleep(pause)
    try:
        return call()
    except FINAL:
        raise
    except Exception as error:
        raise StoreError(
            f"'{place}' failed {len(PAUSES) + 1} times in {sum(PAUSES):,.0f} s, the last time with "
            f"{type(error).__name__}: {error}. Look at the network and the service; then run the "
            "same line again."
        ) from error


class Persistent:
    """An fsspec file system, each call of which is tried again."""

    def __init__(self, system: Any, url: str) -> None:
        """Stand for `system`; `url` is named where it fails for good: it holds no credentials."""
        self._system, self._url = system, url

    def __getattr__(self, name: str) -> Any:
        """A method of the file system that does not give up at once."""
        method = getattr(self._system, name)

        @functools.wraps(method)
        def persistent(*words: Any, **options: Any) -> Any:
            return retried(lambda: method(*words, **options), self._url)

        return persistent
