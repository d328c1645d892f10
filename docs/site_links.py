"""Brings what the pages of docs/ link to outside of that folder into the site.

A hook of mkdocs (mkdocs.yml names it). README.md becomes the first page; a file of the repository
that a page links to, such as a result of a benchmark or the changelog, is part of the site under
its path in the repository, so the same links lead somewhere on a forge, in an editor and here.
mkdocs itself renders the pages and checks every link.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
FIRST = {"README.md": "index.md"}
LISTED = ("docker/README.md", "CHANGELOG.md", "CONTRIBUTING.md")  # by the menu
_LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add README.md and every file that is linked to, from page to page."""
    pages = [f"docs/{file.src_uri}" for file in files if file.is_documentation_page()]
    waiting = [*FIRST, *LISTED, *pages]
    known = set(waiting)
    while waiting:
        path = waiting.pop()
        if not path.startswith("docs/"):
            files.append(_from_outside(config, path))
        if path.endswith(".md"):
            found = {target for target in linked(path) if (ROOT / target).is_file()}
            new = {t for t in found - known if not t.startswith("docs/")}
            known |= new
            waiting += sorted(new)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the links of a page, which hold in the repository, into those of the site."""
    here = repository_path(page.file.src_uri)

    def turned(link: re.Match[str]) -> str:
        target = site_path(_resolved(here, link[2]))
        return link[1] + posixpath.relpath(target, posixpath.dirname(page.file.src_uri)) + link[3]

    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(turned, part) for part in parts)


def _from_outside(config: MkDocsConfig, path: str) -> File:
    in_menu = path in FIRST or path in LISTED
    shown = InclusionLevel.INCLUDED if in_menu else InclusionLevel.NOT_IN_NAV
    source = str(ROOT / path)
    return File.generated(config, site_path(path), abs_src_path=source, inclusion=shown)


def linked(path: str) -> set[str]:
    """The places in the repository that a page of it links to, code aside."""
    text = _FENCE.sub("", (ROOT / path).read_text(encoding="utf-8"))
    return {_resolved(path, link[2]) for link in _LINK.finditer(text)}


def site_path(path: str) -> str:
    """`docs/cli.md -> cli.md`, `README.md -> index.md`, others as they are."""
    return FIRST.get(path, path.removeprefix("docs/"))


def repository_path(uri: str) -> str:
    """The other way round."""
    for path, first in FIRST.items():
        if uri == first:
            return path
    return f"docs/{uri}" if (ROOT / "docs" / uri).is_file() else uri


def _resolved(page: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
