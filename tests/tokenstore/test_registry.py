"""Plugins are found by file name, by variant and by entry point; an unknown name lists the rest."""

import importlib.metadata
import pickle
import sys
from pathlib import Path

import pytest

from tokenstore import registry
from tokenstore.errors import BrokenPlugin, UnknownName

PLUGINS = {
    "base": "class Base: pass",
    "plain": "class PLUGIN: pass",
    "many_names": "class PLUGIN:\n    variants = ('many-names-small', 'many-names-large')",
    "broken_on_import": "import a_module_that_is_not_installed",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of plugins on the import path."""
    folder = tmp_path / "toy_plugins"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    for name, text in PLUGINS.items():
        if name != "broken_on_import":
            (folder / f"{name}.py").write_text(text + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "toy_plugins"
    for module in [name for name in sys.modules if name.startswith("toy_plugins")]:
        del sys.modules[module]


def test_a_file_name_is_a_plugin_name(package: str) -> None:
    assert registry.find(package, "plain").__name__ == "PLUGIN"


def test_variants_are_found_in_the_file_that_begins_their_name(package: str) -> None:
    assert "many-names-large" in registry.find(package, "many-names-large").variants


def test_a_file_with_variants_does_not_answer_to_its_own_name(package: str) -> None:
    with pytest.raises(UnknownName, match="many-names-small"):
        registry.find(package, "many-names")


def test_names_lists_plugins_and_skips_files_without_one(package: str) -> None:
    assert registry.names(package) == ["many-names-large", "many-names-small", "plain"]


def test_an_unknown_name_lists_the_known_and_the_nearest(package: str) -> None:
    with pytest.raises(UnknownName, match=r"unknown toy_plugin 'plian'. Did you mean plain\?"):
        registry.find(package, "plian")


def test_a_plugin_is_imported_only_when_it_is_asked_for(package: str, tmp_path: Path) -> None:
    (tmp_path / package / "broken_on_import.py").write_text(PLUGINS["broken_on_import"])
    assert registry.find(package, "plain")
    with pytest.raises(ModuleNotFoundError):
        registry.find(package, "broken-on-import")


def test_an_entry_point_of_another_package_is_a_plugin(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = importlib.metadata.EntryPoint("foreign", "toy_plugins.plain:PLUGIN", package)
    found = importlib.metadata.EntryPoints([entry])
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found.select(group=group))
    assert registry.find(package, "foreign") is registry.find(package, "plain")
    assert "foreign" in registry.names(package)


def test_an_unknown_name_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(UnknownName("codec", "zsdt", ["zstd", "gzip"])))
    assert str(error) == "unknown codec 'zsdt'. Did you mean zstd? Known: gzip, zstd."


def test_an_entry_point_that_cannot_be_imported_is_told_from_an_unknown_name(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = importlib.metadata.EntryPoint("foreign", "toy_plugins.plain:Missing", package)
    found = importlib.metadata.EntryPoints([entry])
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found.select(group=group))
    with pytest.raises(BrokenPlugin, match="'foreign' of 'toy_plugins.plain:Missing'.*Missing"):
        registry.find(package, "foreign")
