"""Recipe: a YAML file with one section for each task that it serves, from the package or a path.

What the sections mean is for `config`. The YAML is read as everybody reads it, and safely.
"""

import importlib.resources
import re
import typing
from pathlib import Path
from typing import Any

import yaml

from tokenstore.errors import UnknownName, UsageError

DEFAULT_RECIPE = "cpu_tiny"


class _Loader(yaml.SafeLoader):
    """Safe YAML as everybody reads it: `1e-3` is a number, and `on` is a word (YAML 1.2)."""


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _BOOL, re.compile("(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_recipe(place: str, task: str) -> dict[str, Any]:
    """The section of a recipe for one task, with its `task` key set.

    Args:
        place: name of a recipe that comes with the package, or path of a YAML file.
        task: name of the task.

    Raises:
        UnknownName: no recipe of that name, or the recipe has no section for the task.
        UsageError: the file is no recipe.
    """
    sections = parse_recipe(recipe_text(place), place)
    if task not in sections:
        raise UnknownName(f"task in recipe '{place}'", task, sections)
    return {**sections[task], "task": task}


def parse_recipe(text: str, origin: str) -> dict[str, dict[str, Any]]:
    """Sections of a recipe by task.

    Raises:
        UsageError: the text is not a YAML mapping of task names to mappings.
    """
    try:
        sections = parse_yaml(text)
    except ValueError as error:
        raise UsageError(f"recipe '{origin}' is not YAML: {error}") from error
    is_recipe = isinstance(sections, dict) and all(isinstance(s, dict) for s in sections.values())
    if not is_recipe:
        raise UsageError(
            f"recipe '{origin}' is not a mapping of task names to their settings, such as "
            "'mtm: {epochs: 100, batch_size: 256, lr: 1.0e-3}'"
        )
    return typing.cast(dict[str, dict[str, Any]], sections)


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(Path(f.name).stem for f in _recipe_folder().iterdir() if f.name.endswith(".yaml"))


def recipe_text(place: str) -> str:
    """A recipe as it stands in its file, header comment included.

    Raises:
        UnknownName: `place` is neither a recipe's name nor a file.
        UsageError: the file cannot be read as text.
    """
    if place in recipe_names():
        text: str = _recipe_folder().joinpath(f"{place}.yaml").read_text(encoding="utf-8")
        return text
    path = Path(place)
    if not path.is_file():
        raise UnknownName("recipe", place, recipe_names(), "A path of a YAML file is fine too.")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe file '{place}' cannot be read: {error}") from error


def parse_yaml(text: str) -> Any:
    """What a text of YAML says.

    Raises:
        ValueError: it is none, told on one line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def _recipe_folder() -> Any:
    return importlib.resources.files("seit_train").joinpath("recipes")
