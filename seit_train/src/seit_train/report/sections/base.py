"""The law of the section: one thing to look at in a trained run, for whichever tasks offer it.

A section asks whether a run can serve it, by what the task and its model can do and not by their
names, and turns a `Material` into blocks for the page and facts for `--json`. It changes nothing
and draws nothing at random but from seeds of its own.

A file of this folder defines one subclass and names it in the module constant `PLUGIN`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from seit_train.evaluate.trained import Trained
from seit_train.report.blocks import Block
from seit_train.report.material import Material


@dataclass(frozen=True)
class Findings:
    """What a section found: blocks for the page, and JSON values."""

    blocks: tuple[Block, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


class Section(ABC):
    """One thing to look at; see the law above.

    Attributes:
        title: its heading.
        order: place on the page, low ones first.
    """

    title: ClassVar[str]
    order: ClassVar[int]

    @classmethod
    @abstractmethod
    def serves(cls, trained: Trained) -> bool:
        """Whether this run has what the section looks at."""

    @classmethod
    @abstractmethod
    def look(cls, material: Material, sample: int) -> Findings:
        """Look at no more than `sample` images."""
