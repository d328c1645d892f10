"""What a check of a store reports."""

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One promise that the store breaks: where, which, what was expected and what was found."""

    place: str
    what: str
    expected: str
    found: str

    def __str__(self) -> str:
        """One sentence."""
        return f"{self.place}: {self.what}: expected {self.expected}, found {self.found}"


class Findings:
    """Findings in the order they were made."""

    def __init__(self) -> None:
        """None yet."""
        self.all: list[Finding] = []

    def __iter__(self) -> Iterator[Finding]:
        """The findings."""
        return iter(self.all)

    def __len__(self) -> int:
        """How many."""
        return len(self.all)

    def add(self, place: str, what: str, expected: object, found: object) -> None:
        """Report a difference."""
        self.all.append(Finding(place, what, str(expected), str(found)))

    def error(self, place: str, error: Exception) -> None:
        """Report what could not be read at all."""
        self.add(place, "reading", "sound bytes", str(error))
