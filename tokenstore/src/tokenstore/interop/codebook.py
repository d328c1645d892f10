"""Codebooks as files: the vectors of a tokenizer, by id.

Read from .npy, safetensors or a torch file that holds one bare tensor (SeiT's codebook.ckpt), and
written as safetensors. Nothing is unpickled; torch is loaded for its own files only.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from tokenstore.errors import SourceError
from tokenstore.interop.arrays import LARGEST_ID, read_npy
from tokenstore.vocabulary import Vocabulary

NAME = "codebook.safetensors"


@dataclass(frozen=True)
class Codebook:
    """Vectors by id: rows float32 [K, d]; `has` bool [K], False for ids whose row is not known."""

    rows: NDArray[np.float32]
    has: NDArray[np.bool_]
    file: Path

    def __len__(self) -> int:
        """How many ids there can be."""
        return len(self.rows)

    @cached_property
    def sha256(self) -> str:
        """Identity of the vectors."""
        return hashlib.sha256(self.rows.tobytes()).hexdigest()

    def renamed(self, ids: NDArray[np.int64]) -> "Codebook":
        """The same vectors where row r is that of `ids[r]`."""
        if len(ids) != len(self.rows):
            raise SourceError(
                f"'{self.file}' has {len(self.rows)} rows, but the card beside it names "
                f"{len(ids)} ids. Give the codebook that belongs to these tokens."
            )
        return _scattered(ids, self.rows, self.file)


def read_codebook(file: Path) -> Codebook:
    """Read a codebook.

    Raises:
        SourceError: no such file, or no table of finite numbers.
        WeightsError: a torch file that holds anything but one tensor.
    """
    if not file.is_file():
        raise SourceError(f"there is no codebook '{file}'. Give a .npy, safetensors or torch file.")
    if file.suffix == ".npy":
        return _checked(read_npy(file.read_bytes(), f"'{file}'"), file)
    if file.suffix == ".safetensors":
        return _from_safetensors(file)
    # Torch is needed for its own files only.
    from tokenstore.tokenizers.checkpoints import read_tensor

    return _checked(read_tensor(file).numpy(), file)


def write_codebook(folder: Path, vocabulary: Vocabulary) -> None:
    """Write `codebook.safetensors`, unless the store has no codebook."""
    if vocabulary.codebook is not None:
        order = np.argsort(vocabulary.ids)
        arrays = {"ids": vocabulary.ids[order], "codebook": vocabulary.codebook[order]}
        (folder / NAME).write_bytes(safetensors.numpy.save(arrays))


def codebook_of(asked: Path | None, *places: Path) -> Codebook | None:
    """The codebook that was asked for, or else the first of `places` that is there."""
    found = asked or next((place for place in places if place.is_file()), None)
    return None if found is None else read_codebook(found)


def _from_safetensors(file: Path) -> Codebook:
    try:
        arrays = safetensors.numpy.load(file.read_bytes())
    except (SafetensorError, ValueError, KeyError) as error:
        raise SourceError(f"'{file}' is no safetensors file that numpy reads: {error}") from error
    ids = arrays.pop("ids", None)
    if len(arrays) != 1:
        raise SourceError(
            f"'{file}' holds {len(arrays)} tensors ({', '.join(sorted(arrays)[:4])}), expected the "
            "codebook alone, and `ids` beside it where rows are missing. Save it so."
        )
    rows = _table(next(iter(arrays.values())), file)
    if ids is None:
        return _checked(rows, file)
    if (
        ids.shape != rows.shape[:1]
        or ids.dtype.kind not in "iu"
        or len(set(ids.tolist())) < len(ids)
    ):
        raise SourceError(
            f"'{file}': ids are {ids.dtype} {list(ids.shape)}, expected {len(rows)} distinct whole "
            "numbers, one a row."
        )
    return _scattered(ids.astype(np.int64), rows, file)


def _scattered(ids: NDArray[np.int64], rows: NDArray[np.float32], file: Path) -> Codebook:
    """Row r goes to the place `ids[r]`."""
    if not len(ids) or ids.min() < 0 or ids.max() >= LARGEST_ID:
        raise SourceError(f"'{file}' has ids outside 0..{LARGEST_ID - 1}. It is damaged.")
    whole = np.zeros((int(ids.max()) + 1, rows.shape[1]), np.float32)
    has = np.zeros(len(whole), np.bool_)
    whole[ids], has[ids] = rows, True
    return Codebook(whole, has, file)


def _checked(rows: NDArray[Any], file: Path) -> Codebook:
    table = _table(rows, file)
    return Codebook(table, np.ones(len(table), np.bool_), file)


def _table(rows: NDArray[Any], file: Path) -> NDArray[np.float32]:
    if rows.ndim != 2 or rows.dtype.kind != "f" or 0 in rows.shape or len(rows) > LARGEST_ID:
        raise SourceError(
            f"'{file}' is {rows.dtype} {list(rows.shape)}, expected a codebook: floating numbers "
            f"[codes, width] of at most {LARGEST_ID:,} codes."
        )
    wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(wrong):
        raise SourceError(f"'{file}': row {wrong[0]} holds infinite numbers or NaN.")
    return np.ascontiguousarray(rows, dtype=np.float32)
