"""Writes docs/api.txt: every public name with its signature, read from the sources.

python -m docs.make_api            write the file
python -m docs.make_api --check    exit 1 if it is not what would be written

A module is public if a Python example of the README or of docs/ imports it, or if it is promised
below. Its public names are those of `__all__`, or all that it defines without an underscore. What
is not listed may change at any time. Nothing is imported, so nothing depends on what is installed.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import griffe

from docs.written import written_by

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_name("api.txt")
SOURCES = {"tokenstore": ROOT / "tokenstore/src", "seit_train": ROOT / "seit_train/src"}
# Public whatever the examples import.
PROMISED = (*SOURCES, "tokenstore.errors", "tokenstore.loader", "tokenstore.tokenizers")
INTERNAL = {"__post_init__", "__reduce__", "__repr__"}
LONGEST = 60  # characters of a value that is shown
HEADER = """\
Written by `make docs`; do not edit. The public names of tokenstore and seit_train: a module is
public if an example of README.md or docs/ imports it, and a few besides. A change here is a change
for users: it needs a line in CHANGELOG.md, and a new minor version if anything went or means
something else.
"""


def public_modules() -> list[str]:
    """The modules that examples of the documentation import, sorted."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *ROOT.glob("*/README.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    blocks = "\n".join(re.findall(r"^ *```python\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL))
    imports = re.compile(r"^ *(?:from|import) ((?:tokenstore|seit_train)[\w.]*)", re.MULTILINE)
    return sorted({*imports.findall(blocks), *PROMISED})


def page() -> str:
    """The whole text of docs/api.txt."""
    packages = {
        name: griffe.load(name, search_paths=[folder], resolve_aliases=True)
        for name, folder in SOURCES.items()
    }
    parts = [HEADER]
    for name in public_modules():
        package, _, rest = name.partition(".")
        module = packages[package][rest] if rest else packages[package]
        parts.append("\n".join([name, *_module_lines(module)]) + "\n")
    return "\n".join(parts)


def _module_lines(module: griffe.Object | griffe.Alias) -> Iterator[str]:
    listed = module.exports
    for name, member in sorted(module.members.items()):
        if name in listed if listed is not None else _own(name, member):
            yield from _lines(name, member, "    ")


def _own(name: str, member: griffe.Object | griffe.Alias) -> bool:
    return not name.startswith("_") and not member.is_alias and not member.is_module


def _special(name: str, member: griffe.Object | griffe.Alias) -> bool:
    """`__getitem__` and its like, which are used without being named."""
    return name.startswith("__") and member.is_function and name not in INTERNAL


def _lines(name: str, found: griffe.Object | griffe.Alias, indent: str) -> Iterator[str]:
    member = found.final_target if isinstance(found, griffe.Alias) else found
    if isinstance(member, griffe.Function):
        kinds = " ".join(sorted({"classmethod", "staticmethod"} & member.labels))
        yield f"{indent}{kinds + ' ' if kinds else ''}{member.signature(name=name)}"
    elif isinstance(member, griffe.Class):
        bases = ", ".join(str(base) for base in member.bases)
        yield f"{indent}class {name}({bases})" if bases else f"{indent}class {name}"
        for inner, value in sorted(member.members.items()):
            if _own(inner, value) or _special(inner, value):
                yield from _lines(inner, value, indent + "    ")
    elif isinstance(member, griffe.Attribute):
        annotation = f": {member.annotation}" if member.annotation else ""
        inside = "instance-attribute" in member.labels and "class-attribute" not in member.labels
        text = "" if inside or member.value is None else str(member.value)
        shown = f" = {text}" if text and len(text) <= LONGEST else ""
        yield f"{indent}{name}{annotation}{shown}"


main = written_by(PAGE, page)

if __name__ == "__main__":
    main()
