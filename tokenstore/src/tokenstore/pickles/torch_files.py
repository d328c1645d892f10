"""Torch's two file formats, read here so that torch.load need not be trusted with them.

    zip:     NAME/data.pkl (the pickle), NAME/data/KEY (each storage, stored uncompressed),
             NAME/byteorder ("little"; older files have none)
    legacy:  pickle MAGIC, pickle 1001, pickle of machine facts, the pickle, pickle of [KEY, ...],
             then for each KEY: <i8 count of numbers, <count numbers>

Gives the pickle as containers and records (machine.py) and reads the numbers of those tensors
that the caller wants; so the optimizer's never come into memory. TorchScript programs and torch's
oldest form (a tar) are refused. What the containers mean is the business of checkpoints.py.
"""

import math
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import torch

from tokenstore.errors import WeightsError
from tokenstore.pickles.machine import unpickle
from tokenstore.pickles.tensors import StorageRecord, TensorRecord

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
DTYPES = {
    str(value).removeprefix("torch."): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype)
}


# RuntimeError is torch's, for a shape that it cannot make, and zipfile's, for a password.
UNREADABLE = (
    *(OSError, ValueError, TypeError, RuntimeError, EOFError, LookupError, OverflowError),
    *(MemoryError, zipfile.BadZipFile, zlib.error, struct.error),
)


class TorchFile(ABC):
    """An open torch file: its pickle's content, and the numbers of its tensors."""

    content: Any  # containers, `Stub`s and `TensorRecord`s

    def __init__(self, file: Path) -> None:
        self.file = file
        self._storages: dict[str, torch.Tensor] = {}
        self._unread = file.stat().st_size  # in bytes; fewer than the storages ask for: a trick

    @abstractmethod
    def _read_bytes(self, storage: StorageRecord) -> bytearray:
        """All bytes of the storage's key; damage is an OSError or a ValueError."""

    def tensor(self, record: TensorRecord, name: str) -> torch.Tensor:
        """The tensor that a record describes, as a view of its storage.

        Raises:
            WeightsError: the file lacks its numbers, or they are fewer than the shape needs.
        """
        try:
            return self._view(record)
        except UNREADABLE as error:
            raise WeightsError(
                f"'{self.file}' is damaged: tensor {name[:80]!a} cannot be read "
                f"({str(error) or 'it ends early'}). Fetch the file anew."
            ) from error

    def _view(self, record: TensorRecord) -> torch.Tensor:
        storage, dtype = record.storage, DTYPES.get(record.dtype)
        if dtype is None or len(record.shape) != len(record.strides):
            raise ValueError(f"{record.dtype} of shape {record.shape}, strides {record.strides}")
        if 0 in record.shape:
            return torch.empty(record.shape, dtype=dtype)
        size = DTYPES[storage.dtype].itemsize
        count = storage.count * size // dtype.itemsize
        steps = zip(record.shape, record.strides, strict=True)
        last = record.offset + sum((length - 1) * step for length, step in steps)
        # More numbers than stored would be a tensor with stride 0: nothing, blown up.
        if last >= count or math.prod(record.shape) > count:
            raise ValueError(f"shape {list(record.shape)} in a storage of {count} numbers")
        numbers = self._numbers(storage)[
            storage.start * size : (storage.start + storage.count) * size
        ]
        if len(numbers) < count * dtype.itemsize:
            raise ValueError(f"{len(numbers)} bytes where {count * dtype.itemsize} were promised")
        part = numbers[: count * dtype.itemsize].view(dtype)
        return part.as_strided(record.shape, record.strides, record.offset)

    def _numbers(self, storage: StorageRecord) -> torch.Tensor:
        """All bytes of a storage, uint8, read once."""
        if storage.key not in self._storages:
            content = self._read_bytes(storage)
            self._unread -= len(content)
            if not content or self._unread < 0:
                raise ValueError("its storage is empty, or shares its bytes with others")
            self._storages[storage.key] = torch.frombuffer(content, dtype=torch.uint8)
        return self._storages[storage.key]


class ZipFile(TorchFile):
    """Torch's form since 1.6."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        try:
            self._zip = zipfile.ZipFile(file)
            self._folder = self._find_folder()
            if f"{self._folder}byteorder" in self._zip.NameToInfo:
                _require_little_endian(self._record("byteorder") == b"little", file)
            self.content = unpickle(BytesIO(self._record("data.pkl")), file, {})
        except UNREADABLE as error:
            reason = str(error) or "it ends early"
            raise WeightsError(f"'{file}' is a damaged zip ({reason}). Fetch it anew.") from error

    def _find_folder(self) -> str:
        names = self._zip.namelist()
        pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            held = ", ".join(f"{name[:80]!a}" for name in names[:5]) or "nothing"
            raise WeightsError(
                f"'{self.file}' is a zip, but no checkpoint; it holds {held}. If one of these is "
                "the checkpoint, unpack it and pass that file."
            )
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in names:
            raise WeightsError(
                f"'{self.file}' is a TorchScript program, which cannot be read without running "
                "it. Pass a checkpoint with the tensors (a state dict)."
            )
        return folder

    def _read_bytes(self, storage: StorageRecord) -> bytearray:
        return self._record(f"data/{storage.key}")

    def _record(self, name: str) -> bytearray:
        entry = self._zip.NameToInfo.get(f"{self._folder}{name}")
        if entry is None:
            raise ValueError(f"the zip has no '{name}'")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise ValueError("it was packed anew with compression, which torch never uses")
        if getattr(entry, "CRC", None) == 0:  # torch.serialization.set_crc32_options(False)
            del entry.CRC  # zipfile then checks none
        with self._zip.open(entry) as stream:  # checks the CRC when read to its end
            return bytearray(stream.read())


class LegacyFile(TorchFile):
    """Torch's form before 1.6, and of `_use_new_zipfile_serialization=False`."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        dtypes: dict[str, str] = {}
        with file.open("rb") as stream:
            self._check_head(stream)
            self.content = unpickle(stream, file, dtypes)
            keys = unpickle(stream, file, {})
            if not isinstance(keys, list) or not all(_is_key(key, dtypes) for key in keys):
                raise WeightsError(f"'{file}' is damaged: its list of storages. Fetch it anew.")
            items = [(str(key), DTYPES[dtypes[str(key)]].itemsize) for key in keys]
            self._places = self._find_places(stream, items)

    def _check_head(self, stream: IO[bytes]) -> None:
        for expected in (MAGIC, PROTOCOL):
            if unpickle(stream, self.file, {}) != expected:
                raise WeightsError(
                    f"'{self.file}' is a pickle, but no torch checkpoint. Pass a file that "
                    "torch.save made, or safetensors."
                )
        machine = unpickle(stream, self.file, {})
        little = isinstance(machine, dict) and machine.get("little_endian") is True
        _require_little_endian(little, self.file)

    def _find_places(
        self, stream: IO[bytes], items: list[tuple[str, int]]
    ) -> dict[str, tuple[int, int]]:
        """(Offset, size) in bytes of each storage, from keys and sizes of a number."""
        length, places = self.file.stat().st_size, {}
        for key, size in items:
            (count,) = struct.unpack("<q", stream.read(8).ljust(8, b"\xff"))
            start = stream.tell()
            if not 0 <= count * size <= length - start:
                raise WeightsError(
                    f"'{self.file}' ends within its tensors, at {length:,} bytes: it is not whole. "
                    "Fetch it anew."
                )
            places[key] = (start, count * size)
            stream.seek(start + count * size)
        return places

    def _read_bytes(self, storage: StorageRecord) -> bytearray:
        if storage.key not in self._places:
            raise ValueError(f"the file has no storage '{storage.key}'")
        start, size = self._places[storage.key]
        with self.file.open("rb") as stream:
            stream.seek(start)
            return bytearray(stream.read(size))


def _is_key(key: Any, dtypes: dict[str, str]) -> bool:
    return isinstance(key, (str, int)) and str(key) in dtypes


def open_torch_file(file: Path) -> TorchFile:
    """Open a file that torch.save made, or say what it is instead.

    Raises:
        WeightsError: it is no such file, is damaged, or names what no checkpoint should.
    """
    return ZipFile(file) if read_head(file).startswith(b"PK") else LegacyFile(file)


def read_head(file: Path) -> bytes:
    """The first 512 bytes of a file that may be a checkpoint.

    Raises:
        WeightsError: there is no such file, or it is one of those that people take for checkpoints.
    """
    if file.is_dir():
        raise WeightsError(f"'{file}' is a folder. Pass the file of the weights in it.")
    try:
        with file.open("rb") as stream:
            head = stream.read(512)
    except FileNotFoundError:
        raise WeightsError(
            f"there is no file '{file}'. Check the path, or leave it out to use the weights that "
            "come with the tokenizer."
        ) from None
    except OSError as error:
        raise WeightsError(f"'{file}' cannot be read ({error.strerror}).") from error
    other = _what_else(head)
    if other:
        raise WeightsError(f"'{file}' is no checkpoint: {other}")
    return head


def _what_else(head: bytes) -> str | None:
    """What a file is that starts so, where it is no pickle; None where it may be one."""
    text = head.lstrip().lower()
    if not head:
        return "it is empty. Fetch it anew."
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "it is a web page, saved in place of the file; use the direct link of the download."
    if text.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer to the file; run `git lfs pull` where it came from."
    if head[257:262] == b"ustar":
        return (
            "it is a tar archive; unpack it and pass the file inside (torch's oldest form, a "
            "tar too, is not read: save it anew with a newer torch)."
        )
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")):
        return "it is a compressed archive; unpack it and pass the file inside."
    return None


def _require_little_endian(is_so: bool, file: Path) -> None:
    if not is_so:
        raise WeightsError(
            f"'{file}' was written on a big-endian machine, which is not read here. "
            "Save it anew on another machine."
        )
