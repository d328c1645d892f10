"""A corpus as `images/SPLIT/CLASS/FILE`: links to images that lie elsewhere.

What `tokenstore build` and `seit-train pixels` read without further options. No image is opened,
copied or changed. The folder takes its name when all links are in it; until then it is
FOLDER.making. Its file `complete` says which links these are, so that a folder made of other images
is never taken for this one.
"""

import hashlib
import json
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


def begun(folder: Path) -> Path:
    """An empty folder beside the one that it shall become; what lies there half made goes.

    Raises:
        OtherLayout: something else lies where the folder shall be.
    """
    if folder.exists():
        raise OtherLayout(
            f"'{folder}' is there already, and not made by this command. Choose another -o."
        )
    making = folder.with_name(f"{folder.name}.making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    return making


def link(found: Iterable[LaidOut], folder: Path) -> int:
    """Make the corpus of links, or see that it is there; how many there are.

    Raises:
        OtherLayout: there is nothing to link, something is not there, or the folder is another's
            or holds other links.
    """
    complete = folder / COMPLETE
    making = None if complete.exists() else begun(folder)
    digest, count = hashlib.sha256(), 0
    for place, file in found:
        if not file.exists():
            raise OtherLayout(f"'{file}' is not there. Is everything unpacked?")
        if making:
            target = making / place
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(file.absolute())
        digest.update(f"{place}\0{file.absolute()}\n".encode("utf-8", "surrogateescape"))
        count += 1
    if not count:
        raise OtherLayout("no images were found")
    told = json.dumps({"links": count, "sha256": digest.hexdigest()})
    if making:
        (making / COMPLETE).write_text(told, encoding="utf-8")
        making.rename(folder)
    elif complete.read_text(encoding="utf-8") != told:
        raise OtherLayout(
            f"'{folder}' has links to other images than the {count:,} found now. "
            "Choose another -o, or remove it first."
        )
    return count


def prepare(found: Iterable[LaidOut], folder: Path) -> None:
    """`link` as a command: tells how many, or what is wrong, with exit code 2."""
    try:
        click.echo(f"{link(found, folder):,} links in {folder}")
    except OtherLayout as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
