"""Class files: names of the classes in label order, and the mask value that belongs to none."""

import json
from pathlib import Path
from typing import NamedTuple

from tokenstore.errors import SourceError

CLASS_FILE = "classes.json"


class ClassFile(NamedTuple):
    """What a class file says."""

    names: tuple[str, ...]
    ignore_index: int | None = None


def class_file(root: Path, given: Path | None) -> ClassFile | None:
    """What the file given says, or else the one that lies in the corpus; None without either.

    Raises:
        SourceError: the file cannot be read or is of no known form.
    """
    own = root / CLASS_FILE
    file = given or (own if own.is_file() else None)
    return None if file is None else read_class_file(file)


def read_class_file(file: Path) -> ClassFile:
    """Class names in label order from a JSON file.

    Either `{"classes": [{"index": 0, "name": "daisy"}, ...]}`, or a plain list of names; the former
    may say `"ignore_index": 255` of the masks.

    Raises:
        SourceError: the file cannot be read or is of neither form.
    """
    try:
        return _parsed(file.read_bytes(), str(file))
    except OSError as error:
        raise SourceError(f"class file '{file}' cannot be read: {error.strerror}") from error


def class_names(content: bytes, where: str) -> tuple[str, ...]:
    """The names alone, of a class file that lies elsewhere than on a disk.

    Raises:
        SourceError: it is of no known form.
    """
    return _parsed(content, where).names


def _parsed(data: bytes, file: str) -> ClassFile:
    try:
        content = json.loads(data)
        entries = content["classes"] if isinstance(content, dict) else content
        if not isinstance(entries, list):
            raise _bad_class_file(file)
        if all(isinstance(entry, dict) for entry in entries):
            entries = sorted(entries, key=lambda entry: entry["index"])
            if [entry["index"] for entry in entries] != list(range(len(entries))):
                raise SourceError(f"class file '{file}': indices are not 0, 1, 2, ... without gap")
            entries = [entry["name"] for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise _bad_class_file(file) from error
    if not all(isinstance(name, str) for name in entries) or len(set(entries)) != len(entries):
        raise _bad_class_file(file)
    ignored = content.get("ignore_index") if isinstance(content, dict) else None
    return ClassFile(tuple(entries), _ignore_index(ignored, file))


def _ignore_index(value: object, file: str) -> int | None:
    """The mask value of no class, where there is one."""
    if value is None or (type(value) is int and 0 <= value <= 255):
        return value
    raise SourceError(
        f"class file '{file}': ignore_index is {value!r}, expected a pixel value from 0 to 255"
    )


def _bad_class_file(file: str) -> SourceError:
    return SourceError(
        f"class file '{file}' is no list of different class names. Expected "
        '{"classes": [{"index": 0, "name": "daisy"}, ...]} or ["daisy", ...].'
    )
