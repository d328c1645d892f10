"""The commands of the documents: every line of shell in README.md and docs/, as lists of words.

A fenced block in `sh` holds commands; `text` holds what nobody types (a synopsis, a folder). A
block of Python counts if `<!-- runs -->` stands before it. What is done with them stands in
tests/house/test_doc_commands.py (they exist) and tests/end_to_end/test_documents.py (they run).
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [
    *("README.md", "CONTRIBUTING.md", "docker/README.md"),
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]
SEPARATORS = {"&&", "||", ";", "|", "&"}
# What a scheduler fills in where such a line runs.
VARIABLES = {
    "$OPTIONS": "--tokenizer vit-vqgan --precision bf16",
    "$SLURM_CPUS_PER_TASK": "12",
    "$SLURM_ARRAY_TASK_ID": "0",
    "$SLURM_ARRAY_TASK_COUNT": "100",
    '"$SLURM_NNODES"': "4",
}
# Scripts and images that hand their words on to one of our commands.
HANDED_ON = {
    "pipelines/cluster/slurm/train.sbatch": ("seit-train",),
    "tokenstore-reader:0.1.0": ("tokenstore",),
    "tokenstore-build:0.1.0": ("tokenstore",),
}
_BLOCK = re.compile(r"^(<!-- runs -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, the number of its first line, its language and text."""

    page: str
    number: int
    language: str
    text: str
    runs: bool


@dataclass(frozen=True)
class Command:
    """One command as its words, without comments; `place` is PAGE:LINE.

    `words` begin with `tokenstore`, `seit-train`, `python` or `make` where the command is ours,
    whatever starts it (torchrun, srun, docker ...), and with the program's name elsewhere.
    """

    place: str
    words: tuple[str, ...]

    @property
    def typed(self) -> tuple[str, ...]:
        """The words without `> FILE` behind them."""
        return self.words[: self.words.index(">")] if ">" in self.words else self.words

    @property
    def text(self) -> str:
        """The command as one would type it."""
        return " ".join(self.words)


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        number = text.count("\n", 0, found.start(3)) + 1
        yield Block(page, number, found[2], found[3], bool(found[1]))


def commands(block: Block) -> Iterator[Command]:
    """The commands of a block of shell: continued lines joined, variables filled in."""
    if block.language != "sh":
        return
    waiting, first = "", block.number
    for number, line in enumerate(block.text.splitlines(), block.number):
        first = first if waiting else number
        waiting += line.removesuffix("\\")
        if not line.endswith("\\"):
            yield from _of_line(f"{block.page}:{first}", waiting)
            waiting = ""


def _of_line(place: str, line: str) -> Iterator[Command]:
    for name, value in VARIABLES.items():
        line = line.replace(name, value)
    split = shlex.shlex(line, posix=True, punctuation_chars="&;|<>")
    split.whitespace_split = True
    simple: list[list[str]] = [[]]
    for word in split:
        if word in SEPARATORS:
            simple.append([])
        elif simple[-1] or not re.match(r"\w+=(?!\$\()", word):  # VARIABLE=VALUE before a command
            simple[-1].append(word)
    for words in filter(None, simple):
        wrapped = [word for word in words if word.startswith("tokenstore ")]  # sbatch --wrap '...'
        for inner in wrapped:
            yield Command(place, tuple(shlex.split(inner)))
        yield Command(place, ours(words))


def ours(words: list[str]) -> tuple[str, ...]:
    """The command of ours that another program starts, if it does; else the words themselves."""
    for number, word in enumerate(words):
        if word in ("tokenstore", "seit-train", "make"):
            return tuple(words[number:])
        if word in HANDED_ON and "--entrypoint" not in words:
            return (*HANDED_ON[word], *words[number + 1 :])
        if words[number : number + 2] == ["-m", "seit_train"]:
            return ("seit-train", *words[number + 2 :])
    if words[0].endswith("/build.sh"):  # INPUT STORE, for SLURM the number of tasks, options
        options = words[4:] if "slurm" in words[0] else words[3:]
        return ("tokenstore", "build", words[1], "-o", words[2], *options)
    return tuple(words)
