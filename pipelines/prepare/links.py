"""A corpus as `images/SPLIT/CLASS/FILE`: links to images that lie elsewhere.

What `tokenstore build` and `seit-train pixels` read without further options. No image is opened,
copied or changed. The file `complete` is written last; until then a folder is made anew.
"""

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import click

COMPLETE = "complete"


class LaidOut(NamedTuple):
    """One image or class folder: where it shall be, below the corpus, and where it is."""

    place: str
    file: Path


class OtherLayout(Exception):
    """The folder is not laid out as the corpus is when it is unpacked."""


def link(found: Iterable[LaidOut], folder: Path) -> int:
    """Make the corpus of links; how many there are.

    Raises:
        OtherLayout: there is nothing to link, or something is not there.
    """
    if (folder / COMPLETE).exists():
        return int((folder / COMPLETE).read_text(encoding="utf-8"))
    shutil.rmtree(folder, ignore_errors=True)
    count = 0
    for place, file in found:
        if not file.exists():
            raise OtherLayout(f"'{file}' is not there. Is everything unpacked?")
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(file.absolute())
        count += 1
    if not count:
        raise OtherLayout("no images were found")
    (folder / COMPLETE).write_text(str(count), encoding="utf-8")
    return count


def prepare(found: Iterable[LaidOut], folder: Path) -> None:
    """`link` as a command: tells how many, or what is wrong, with exit code 2."""
    try:
        click.echo(f"{link(found, folder):,} links in {folder}")
    except OtherLayout as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
