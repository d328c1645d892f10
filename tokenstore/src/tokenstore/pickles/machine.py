"""Pickles read as descriptions: nothing that one names is ever imported, called or set.

The innermost part of reading a checkpoint. A pickle is a program for a small stack machine; this
is such a machine, and all that its instructions can make are numbers, text, lists, tuples, dicts,
and records of what the file asked for: `Global` (a name), `Stub` (an object), `TensorRecord`
(numbers in the file, checked but unread).
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tokenstore.errors import WeightsError
from tokenstore.pickles.names import Global, check_call, checked_global
from tokenstore.pickles.tensors import (
    TensorRecord,
    storage_record,
    tensor_record,
    typed_tensor_record,
)

# What a damaged pickle can run into: wrong operands, a short stream, claims beyond the memory.
DAMAGE = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError),
    *(OverflowError, MemoryError, RecursionError),
    DeprecationWarning,  # of a wrong escape, for those who make warnings errors
)


@dataclass(eq=False)
class Stub:
    """An object that a pickle describes; it has no behaviour."""

    origin: Global
    arguments: tuple[Any, ...]
    state: Any = None
    entries: dict[Any, Any] = field(default_factory=dict)  # of an object that is a mapping


def unpickle(stream: IO[bytes], file: Path, dtypes: dict[str, str]) -> Any:
    """Read one pickle, up to its end, into plain containers and records.

    Args:
        stream: stands at the pickle, and stands behind it afterwards.
        file: named in errors.
        dtypes: gets the dtype of each storage that the pickle names, by its key.

    Raises:
        WeightsError: the pickle names what no checkpoint should, or is damaged.
    """
    machine = _Machine(file, dtypes)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except DAMAGE as error:
        reason = str(error)[:200] or type(error).__name__
        raise WeightsError(
            f"'{file}' is neither a whole torch file nor safetensors: its pickle cannot be read "
            f"({reason}). Check where it came from, or fetch it anew."
        ) from error
    raise WeightsError(f"'{file}' is not whole: its pickle has no end. Fetch it anew.")


class _Machine:
    """The stack, its marks and the memo of one pickle."""

    def __init__(self, file: Path, dtypes: dict[str, str]) -> None:
        self.file, self.dtypes = file, dtypes
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each open mark
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Do one instruction, called as in `pickletools`."""
        if name in LITERALS:
            self.stack.append(argument)
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name]())
        elif name in ACTIONS:
            ACTIONS[name](self, argument)
        else:  # EXT1 and its like stand for objects that only the writer knew
            raise ValueError(f"instruction {name} has no place in a checkpoint")

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def mark(self, _: None) -> None:
        self.below.append(self.stack)
        self.stack = []

    def tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError("a tuple of more than there is")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def collect(self, make: Callable[[list[Any]], Any]) -> None:
        items = self.pop_mark()
        self.stack.append(make(items))

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Stub):  # what a list-like object holds is of no interest
            raise TypeError("appends to what is no list")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        entries = target.entries if isinstance(target, Stub) else target
        if not isinstance(entries, dict):
            raise TypeError("sets the items of what is no dict")
        entries.update(_dict_of(items))

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def stack_global(self, _: None) -> None:
        name, module = self.pop(), self.pop()
        self.push_global(module, name)

    def push_global(self, module: Any, name: Any) -> None:
        self.stack.append(checked_global(str(module), str(name), self.file))

    def call(self, function: Any, arguments: Any) -> Any:
        """What stands for the result of a call."""
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise TypeError("calls what is no name, or with what are no arguments")
        name = str(function)
        if name in REBUILT:
            return REBUILT[name](self, *arguments)
        check_call(function, self.file)
        return Stub(function, arguments)

    def reduce(self, _: None) -> None:
        arguments, function = self.pop(), self.pop()
        self.stack.append(self.call(function, arguments))

    def instantiate(self, name: str) -> None:
        arguments = tuple(self.pop_mark())
        module, _, attribute = name.partition(" ")
        self.stack.append(self.call(checked_global(module, attribute, self.file), arguments))

    def instantiate_first(self, _: None) -> None:
        function, *arguments = self.pop_mark()
        self.stack.append(self.call(function, tuple(arguments)))

    def new_with_keywords(self, _: None) -> None:
        keywords, arguments, function = self.pop(), self.pop(), self.pop()
        self.stack.append(self.call(function, (*arguments, keywords)))

    def build(self, _: None) -> None:
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, Stub):
            target.state = state
        elif not isinstance(target, (dict, TensorRecord)):  # theirs is of no interest
            raise TypeError("sets the state of what is no object")

    def persistent(self, _: None) -> None:
        """Replace torch's tuple that stands for a storage, or for a class and its source."""
        kind, first, *rest = self.pop()
        if kind == "module":
            self.stack.append(first)
        elif kind == "storage":
            storage = storage_record(first, *rest)
            self.dtypes.setdefault(storage.key, storage.dtype)
            self.stack.append(storage)
        else:
            raise ValueError(f"a persistent object '{str(kind)[:40]}', expected a storage")


def _hashable(key: Any) -> Any:
    """A key as it is, or an anonymous one: hashing a tuple nested a million deep would crash."""
    plain = isinstance(key, (str, int, float, bytes, type(None), Global))
    return key if plain else object()


def _dict_of(items: list[Any]) -> dict[Any, Any]:
    """[k, v, k, v] -> {k: v, k: v}."""
    return {_hashable(k): v for k, v in zip(items[::2], items[1::2], strict=True)}


def _dict_from(_: _Machine, pairs: Any = (), *__: Any) -> dict[Any, Any]:
    """What dict(pairs) gives; Python 2 pickled an OrderedDict so."""
    if isinstance(pairs, dict):
        return pairs
    return _dict_of([value for key, item in pairs for value in (key, item)])


def _parameter(_: _Machine, tensor: Any = None, *__: Any) -> Any:
    return tensor


def _subclass(machine: _Machine, function: Any, _type: Any, arguments: Any, _state: Any) -> Any:
    return machine.call(function, arguments)


def _reconstructed(machine: _Machine, kind: Any, *arguments: Any) -> Any:
    return machine.call(kind, arguments)


def _list_from(_: _Machine, items: Any = ()) -> list[Any]:
    return items if isinstance(items, list) else list(items)


# Calls whose result is read: (machine, *arguments) -> a container or a record.
REBUILT: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dict_from,
    "collections.defaultdict": lambda *_: {},  # its first argument is the default
    "builtins.dict": _dict_from,
    "builtins.set": _list_from,
    "builtins.list": _list_from,
    "torch._utils._rebuild_tensor": lambda _, *parts: tensor_record(*parts),
    "torch._utils._rebuild_tensor_v2": lambda _, *parts: tensor_record(*parts),
    "torch._utils._rebuild_tensor_v3": lambda _, *parts: typed_tensor_record(*parts),
    "torch.Size": lambda _, lengths: tuple(lengths),
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "copyreg._reconstructor": _reconstructed,
}

LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BYTEARRAY8"),
}

CONSTANTS: dict[str, Callable[[], Any]] = {
    **{"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False},
    **{"EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_DICT": dict, "EMPTY_SET": list},
}

ACTIONS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": lambda _, __: None,
    "FRAME": lambda _, __: None,
    "MARK": _Machine.mark,
    "POP": lambda machine, _: machine.stack.pop() if machine.stack else machine.pop_mark(),
    "POP_MARK": lambda machine, _: machine.pop_mark(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "LIST": lambda machine, _: machine.collect(list),
    "TUPLE": lambda machine, _: machine.collect(tuple),
    "FROZENSET": lambda machine, _: machine.collect(list),
    "DICT": lambda machine, _: machine.collect(_dict_of),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_mark()),
    "ADDITEMS": lambda machine, _: machine.append(machine.pop_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    **dict.fromkeys(
        ("GET", "BINGET", "LONG_BINGET"),
        lambda machine, index: machine.stack.append(machine.memo[index]),
    ),
    "GLOBAL": lambda machine, name: machine.push_global(*name.split(" ", 1)),
    "STACK_GLOBAL": _Machine.stack_global,
    "INST": _Machine.instantiate,
    "OBJ": _Machine.instantiate_first,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.new_with_keywords,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}
