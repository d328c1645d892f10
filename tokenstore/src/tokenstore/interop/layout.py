"""Layout: which files of a folder belong to which split.

A split is a sub-folder of its name (`train/`), or the files that begin with it (`train.parquet`,
`train-000000.tar`); its name is one that the card lists, or else train, val or test. A folder that
shows neither is one split.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from tokenstore.errors import SourceError
from tokenstore.interop.card import TokenCard

USUAL = ("train", "val", "test")


def split_files(
    place: Path, suffixes: Sequence[str], split: str, card: TokenCard
) -> dict[str, list[Path]]:
    """The files of each split, in the order of their names; a file is one split by itself.

    Args:
        place: file or folder.
        suffixes: how the files of the format end.
        split: name of the one split of an undivided input.
        card: of the folder.

    Raises:
        SourceError: nothing is there, or no file of the format, or files beside the splits.
    """
    if place.is_file():
        return {split: [place]}
    files = files_below(place, suffixes)
    known = card.splits or USUAL
    by_split: dict[str, list[Path]] = {}
    for file in files:
        name = _split_of(file.relative_to(place), known)
        by_split.setdefault(name or "", []).append(file)
    if set(by_split) == {""}:
        return {split: files}
    if "" in by_split:
        raise SourceError(
            f"'{place}' is divided into {', '.join(sorted(set(by_split) - {''}))}, but "
            f"'{by_split[''][0].relative_to(place)}' belongs to none of them. Move it."
        )
    return {name: by_split[name] for name in known if name in by_split}


def files_below(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """All files of a folder that end so, hidden ones left out, in the byte order of their paths.

    Raises:
        SourceError: there is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        raise SourceError(f"'{folder}' does not exist. Give a file or folder.")
    found = [
        file
        for file in folder.rglob("*")
        if file.name.endswith(tuple(suffixes)) and file.is_file() and not _hidden(file, folder)
    ]
    if not found:
        raise SourceError(f"'{folder}' holds no {' or '.join(suffixes)} file.")
    return sorted(found, key=lambda file: str(file.relative_to(folder)).encode(errors="replace"))


def _split_of(file: Path, known: Sequence[str]) -> str | None:
    """`train/a.tar`, `train.tar`, `train-0001.tar` -> "train"."""
    if len(file.parts) > 1:
        return file.parts[0] if file.parts[0] in known else None
    numbered = r"([-_.]\d[\w.-]*)?(\.[A-Za-z]\w*)+"
    fitting = [name for name in known if re.fullmatch(re.escape(name) + numbered, file.name)]
    return max(fitting, key=len, default=None)


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)
