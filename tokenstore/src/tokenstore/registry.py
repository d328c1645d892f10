"""Plugins by name: a name on the command line is a file name, or an entry point of another package.

`find("tokenstore.codecs", "zstd")` imports `tokenstore/codecs/zstd.py` and returns its module
constant `PLUGIN`. A file may serve several names (`PLUGIN.variants`); its own name begins each of
them, so `vqgan-f16-1024` is looked for in `vqgan_f16_1024.py`, `vqgan_f16.py` and `vqgan.py`.
Packages outside this project add a plugin with an entry point whose group is the same dotted name.
Nothing is imported before it is asked for: a tokenizer's file may import torch, its name does not.
"""

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Iterator
from typing import Any

from tokenstore.errors import BrokenPlugin, UnknownName


def find(package: str, name: str) -> Any:
    """The plugin called `name` of a plugin package.

    Args:
        package: dotted name of the folder of plugins, e.g. "tokenstore.codecs".
        name: the plugin's name as typed by a user, with hyphens.

    Raises:
        UnknownName: no file and no entry point serves this name.
        BrokenPlugin: another package promises it and cannot be imported.
    """
    files = set(_file_names(package))
    words = name.split("-")
    for length in range(len(words), 0, -1):
        stem = "-".join(words[:length])
        if stem not in files:
            continue
        plugin = _plugin(package, stem)
        if plugin is not None and name in served_names(plugin, stem):
            return plugin
    # Last, since it reads the metadata of every installed package: milliseconds.
    for entry in importlib.metadata.entry_points(group=package):
        if entry.name == name:
            return _loaded(entry)
    raise UnknownName(_noun(package), name, names(package))


def names(package: str) -> list[str]:
    """All names that `find` would serve, sorted. Imports every plugin file of the package."""
    known = {entry.name for entry in importlib.metadata.entry_points(group=package)}
    for stem in _file_names(package):
        plugin = _plugin(package, stem)
        if plugin is not None:
            known.update(served_names(plugin, stem))
    return sorted(known)


def served_names(plugin: Any, stem: str) -> tuple[str, ...]:
    """The names that one plugin serves: its `variants`, or else its file's name."""
    return tuple(getattr(plugin, "variants", ())) or (stem,)


def _file_names(package: str) -> Iterator[str]:
    """`tokenstore.codecs` -> "base", "escape", "gzip", "zstd" (hyphens for underscores)."""
    folder = importlib.import_module(package)
    for module in pkgutil.iter_modules(folder.__path__):
        yield module.name.replace("_", "-")


def _plugin(package: str, stem: str) -> Any | None:
    module = importlib.import_module(f"{package}.{stem.replace('-', '_')}")
    return getattr(module, "PLUGIN", None)


def _loaded(entry: importlib.metadata.EntryPoint) -> Any:
    try:
        return entry.load()
    # Another package's import may fail in any way; this project is not the one to be repaired.
    except Exception as error:
        owner = f"package '{entry.dist.name}'" if entry.dist else f"'{entry.value}'"
        raise BrokenPlugin(
            f"'{entry.name}' of {owner} cannot be imported: {type(error).__name__}: {error}. "
            "Repair, update or uninstall that package."
        ) from error


def _noun(package: str) -> str:
    """`tokenstore.codecs` -> "codec"."""
    return package.rpartition(".")[2].removesuffix("s")
