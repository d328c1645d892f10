"""Room on a disk: asked before long work begins, and told plainly when it runs out on the way.

Builds and everything else that writes stores goes through these two. The estimate is a low one: it
refuses what cannot succeed, and what fails in spite of it ends with the same figures. A place
behind a URL has no free space that could be asked for.
"""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from math import prod
from pathlib import Path

from tokenstore.errors import NoRoom

FULL = (errno.ENOSPC, errno.EDQUOT)
# The best codec goes this far below the order-0 entropy of real images' tokens (docs/log.md), and
# an image's place in index and tar costs a few bytes.
LEAST_OF_ENTROPY = 0.75
LEAST_A_RECORD = 6


def check_room(place: str, needed: int) -> None:
    """Refuse work that has to write `needed` bytes at `place` where there is less room.

    Raises:
        NoRoom: there is.
    """
    free = free_bytes(place)
    if free is not None and free < needed:
        raise NoRoom(
            f"'{place}' needs about {needed:,} bytes, {free:,} are free there. "
            "Make room, or choose a place on another disk; nothing was changed."
        )


@contextlib.contextmanager
def room_for(place: str, needed: int) -> Iterator[None]:
    """Do work that writes about `needed` bytes at `place`.

    Raises:
        NoRoom: the disk became full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise NoRoom(
            f"no room is left for '{place}', which needs about {needed:,} bytes in all; "
            f"{free_bytes(place) or 0:,} are free. Make room and run the same line again: what is "
            "finished is kept, and no store that was whole has changed."
        ) from error


def least_store(images: int, grid: tuple[int, ...], bits: float) -> int:
    """A low estimate of the bytes of a store, from the order-0 entropy of a token in bits."""
    return int(images * (prod(grid) * bits / 8 * LEAST_OF_ENTROPY + LEAST_A_RECORD))


def free_bytes(place: str) -> int | None:
    """Bytes that are free where `place` is or will be; None where nobody can say."""
    if "://" in place:
        return None
    folder = Path(place).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
