"""What a section of the page is made of. The template knows how each kind is painted.

Pictures are data URIs, so that the page stands alone; texts are only ever text.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True)
class Frame:
    """One picture of a figure, and what it is."""

    picture: str
    what: str


@dataclass(frozen=True)
class Figure:
    """Pictures that belong together; `name` of the image, `note` what came out."""

    frames: tuple[Frame, ...]
    name: str
    note: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Gallery:
    """Figures side by side: strips of a few frames, single small ones, or many small that wrap."""

    kind: ClassVar[str] = "gallery"
    figures: tuple[Figure, ...]
    style: Literal["strips", "small", "many"] = "strips"


@dataclass(frozen=True)
class Table:
    """Rows of texts below a head; the first column names the row."""

    kind: ClassVar[str] = "table"
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Matrix:
    """Counts [row][column] of things with these names; `picture` stands in where they are many."""

    kind: ClassVar[str] = "matrix"
    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...] = ()
    picture: str | None = None


@dataclass(frozen=True)
class Dot:
    """A point of a scatter: coordinates 0..1 from the upper left, which group, and what it is."""

    x: float
    y: float
    group: int
    main: bool
    what: str


@dataclass(frozen=True)
class Scatter:
    """Points of some groups; `names` of the groups, empty where there is only one."""

    kind: ClassVar[str] = "scatter"
    dots: tuple[Dot, ...]
    names: tuple[str, ...]


Block = Text | Gallery | Table | Matrix | Scatter
