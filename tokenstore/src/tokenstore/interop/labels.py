"""Labels: one a sample, as class numbers or class names, from a file or along with the samples.

Names become numbers in the order of the declared classes, else in their own sorted order; numbers
become classes "0", "1" ... where nobody names them. Knows no stores.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenstore.errors import SourceError
from tokenstore.interop.arrays import read_npy

MOST_CLASSES = 1 << 20
Labels = NDArray[np.int64] | Sequence[str]


def read_labels(file: Path) -> Labels:
    """Labels of a .npy, .txt (one a line) or .json file (a list): all numbers, or all names.

    Raises:
        SourceError: no such file, or it holds something else.
    """
    if not file.is_file():
        raise SourceError(f"there is no file of labels '{file}'.")
    if file.suffix == ".npy":
        array = read_npy(file.read_bytes(), f"'{file}'")
        if array.ndim != 1 or array.dtype.kind not in "iuU":
            raise SourceError(
                f"'{file}' is {array.dtype} {list(array.shape)}, expected labels: whole numbers "
                "or names [images]."
            )
        return as_labels(array.tolist(), file)
    try:
        text = file.read_text("utf-8")
        found = json.loads(text) if file.suffix == ".json" else text.splitlines()
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError, too
        raise SourceError(f"'{file}' is no UTF-8 list of labels: {error}") from error
    if file.suffix != ".json":
        found = _numbers(found)
    return as_labels(found, file)


def as_labels(values: Any, file: Path) -> Labels:
    """A list of whole numbers as int64 [n], or a list of names as it is."""
    if isinstance(values, list) and all(type(value) is int for value in values):
        wrong = [place for place, value in enumerate(values) if not 0 <= value < MOST_CLASSES]
        if wrong:
            raise SourceError(
                f"'{file}': label {values[wrong[0]]} of image {wrong[0]} is no class number, "
                f"expected 0 to {MOST_CLASSES - 1}. Correct the labels or import without them."
            )
        return np.array(values, np.int64)
    if isinstance(values, list) and all(type(value) is str and value for value in values):
        return values
    kinds = sorted({type(v).__name__ for v in values}) if isinstance(values, list) else []
    what = f"a list of {' and '.join(kinds)}" if kinds else type(values).__name__
    raise SourceError(
        f"'{file}' holds {what}, expected class numbers only, or class names only, none empty."
    )


def _numbers(lines: list[str]) -> list[Any]:
    """Each line as a number if it is one."""
    stripped = [line.strip() for line in lines]
    return [int(line) if re.fullmatch(r"[+-]?\d{1,18}", line) else line for line in stripped]


@dataclass
class Classes:
    """Learns which classes there are while labels pass by, then numbers them."""

    declared: tuple[str, ...] | None
    names: set[str] = field(default_factory=set)
    most: int = -1  # the highest class number

    def see(self, labels: Labels) -> None:
        """Take note of some labels."""
        if isinstance(labels, np.ndarray):
            self.most = max(self.most, int(labels.max(initial=-1)))
        else:
            self.names.update(labels)

    def listed(self) -> tuple[str, ...] | None:
        """Class names in label order; None where there was no label.

        Raises:
            SourceError: a label that is none of the declared classes, or numbers beside names.
        """
        if self.names and self.most >= 0:
            raise SourceError(
                f"some labels are numbers (up to {self.most}) and some names (such as "
                f"'{min(self.names)}'). Use one of the two for all splits."
            )
        if self.declared is not None:
            unknown = sorted(self.names - set(self.declared))
            if unknown or self.most >= len(self.declared):
                raise SourceError(
                    f"label {unknown[0] if unknown else self.most!r} is none of the "
                    f"{len(self.declared)} classes that are declared. Correct the declaration."
                )
            return self.declared
        if self.names:
            return tuple(sorted(self.names))
        return tuple(map(str, range(self.most + 1))) if self.most >= 0 else None

    def numbers(self, labels: Labels) -> NDArray[np.int64]:
        """Labels as places in `listed`, int64 [n]."""
        if isinstance(labels, np.ndarray):
            return labels
        places = {name: place for place, name in enumerate(self.listed() or ())}
        return np.array([places[name] for name in labels], np.int64)
