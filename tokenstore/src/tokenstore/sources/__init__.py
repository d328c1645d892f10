"""Sources: one file a kind of corpus, found by name; `open_source` is the way in."""

from pathlib import Path
from typing import TYPE_CHECKING

from tokenstore import registry
from tokenstore.errors import SourceError

if TYPE_CHECKING:
    from tokenstore.sources.base import Source


def open_source(place: str, kind: str | None = None, classes: Path | None = None) -> "Source":
    """Open a corpus of images.

    Args:
        place: path of the corpus.
        kind: name of the source, e.g. "image-folder"; None finds the one that accepts `place`.
        classes: file with the class names in label order, instead of the corpus' own.

    Raises:
        UnknownName: no source of that kind.
        SourceError: no kind of source reads what lies there.
    """
    if kind is None:
        kind = _kind_of(place)
    source: Source = registry.find("tokenstore.sources", kind).open(place, classes)
    return source


def _kind_of(place: str) -> str:
    known = registry.names("tokenstore.sources")
    for kind in known:
        if registry.find("tokenstore.sources", kind).accepts(place):
            return kind
    what = "is no corpus that is known here" if Path(place).exists() else "does not exist"
    raise SourceError(
        f"'{place}' {what}. Give a folder of images; kinds of source: {', '.join(known)}."
    )
