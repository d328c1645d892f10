"""Sources: one file a kind of corpus, found by name; `open_source` is the way in."""

from pathlib import Path
from typing import TYPE_CHECKING

from tokenstore import registry
from tokenstore.errors import SourceError
from tokenstore.sources.base import NOTHING_SAID, SourceOptions

if TYPE_CHECKING:
    from tokenstore.sources.base import Source


def open_source(
    place: str, kind: str | None = None, options: SourceOptions = NOTHING_SAID
) -> "Source":
    """Open a corpus of images.

    Args:
        place: path of the corpus.
        kind: name of the source, e.g. "image-folder"; None finds the one that accepts `place`.
        options: what the user says of the corpus.

    Raises:
        UnknownName: no source of that kind.
        SourceError: no kind of source reads what lies there.
        UsageError: an option that means nothing to that kind of source.
    """
    if kind is None:
        kind = _kind_of(place, options)
    source: Source = registry.find("tokenstore.sources", kind).open(place, options)
    return source


def _kind_of(place: str, options: SourceOptions) -> str:
    known = registry.names("tokenstore.sources")
    plugins = {name: registry.find("tokenstore.sources", name) for name in known}
    for kind in sorted(known, key=lambda name: plugins[name].general):
        if plugins[kind].accepts(place, options):
            return kind
    what = "is no corpus that is known here" if Path(place).exists() else "does not exist"
    raise SourceError(
        f"'{place}' {what}. Give a folder of images; kinds of source: {', '.join(known)}."
    )
