"""How torch describes tensors in a pickle: records of where their numbers lie, checked but unread.

Made by the reading of pickles (machine.py), and turned into tensors by torch_files.py.
"""

from dataclasses import dataclass
from typing import Any

from tokenstore.pickles.names import Global

STORAGES = {
    **{"FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16"},
    **{"BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32"},
    **{"ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8"},
    **{"BoolStorage": "bool", "UntypedStorage": "uint8"},
}


@dataclass(frozen=True, eq=False)
class StorageRecord:
    """A run of `count` numbers in a file, the first being number `start` of storage `key`."""

    dtype: str  # as torch calls it, "float32"
    key: str
    count: int
    start: int = 0


@dataclass(frozen=True, eq=False)
class TensorRecord:
    """A view of a storage: shape, strides and offset in numbers of `dtype`."""

    storage: StorageRecord
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def storage_record(
    kind: Global, key: Any, _location: Any, count: int, view: tuple[Any, int, int] | None = None
) -> StorageRecord:
    """What torch's persistent id ("storage", kind, key, location, count[, view]) stands for."""
    dtype = STORAGES.get(kind.name.rpartition(".")[2])
    if dtype is None or kind.module.partition(".")[0] != "torch":
        raise ValueError(f"numbers of an unknown kind, {kind}")
    if not isinstance(key, (str, int)):
        raise TypeError("a storage without a key")
    if view is None:
        return StorageRecord(dtype, str(key), _length(count))
    return StorageRecord(dtype, str(key), _length(view[2]), _length(view[1]))


def _length(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**63:
        raise TypeError(f"a {type(value).__name__} for a length, offset or stride")
    return value


def _lengths(values: Any) -> tuple[int, ...]:
    return tuple(_length(value) for value in values)


def tensor_record(
    storage: StorageRecord, offset: int, shape: Any, strides: Any, *__: Any
) -> TensorRecord:
    """torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, _, _)."""
    where = (_length(offset), _lengths(shape), _lengths(strides))
    return TensorRecord(storage, storage.dtype, *where)


def typed_tensor_record(storage: StorageRecord, *rest: Any) -> TensorRecord:
    """torch._utils._rebuild_tensor_v3(storage, offset, shape, strides, _, _, dtype)."""
    offset, shape, strides, _grad, _hooks, dtype = rest[:6]
    where = (_length(offset), _lengths(shape), _lengths(strides))
    return TensorRecord(storage, dtype.name, *where)
