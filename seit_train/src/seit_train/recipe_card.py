"""Recipe card: what a recipe's header says to people, in fields that a program can read.

    # <title>
    #
    # command   a line a command; a line that begins with more spaces goes on with the one before
    # variants  other runs of the same recipe, by overrides; may be missing
    # store     what it is trained on
    # hardware  what it ran on, or is for
    # hours     measured or published ones; "not measured" where nobody knows
    # expected  metric, with its paper and table
    # source    paper and table of the settings

The header is a comment, so a recipe stays a YAML file of settings; those are config.py's business.
"""

from dataclasses import asdict, dataclass
from typing import Any

from seit_train.config import parse_recipe, recipe_names, recipe_text
from tokenstore.errors import UsageError

_FIELDS = ("command", "variants", "store", "hardware", "hours", "expected", "source")
_MARGIN = 10  # columns of a field's name
UNKNOWN_HOURS = "not measured"


@dataclass(frozen=True)
class RecipeCard:
    """A recipe as `seit-train recipes` shows it.

    Attributes:
        name: as `--recipe` takes it.
        title: one line.
        tasks: its sections.
        command: command lines.
        variants: other runs by overrides, empty where there are none.
        store: what it is trained on.
        hardware: what it ran on, or is for.
        hours: as text; None where nobody has measured or published them.
        expected: metric, with its paper and table.
        source: paper and table of the settings.
    """

    name: str
    title: str
    tasks: tuple[str, ...]
    command: tuple[str, ...]
    variants: str
    store: str
    hardware: str
    hours: str | None
    expected: str
    source: str

    def as_json(self) -> dict[str, Any]:
        """Its fields as JSON-able values."""
        return asdict(self)


def recipe_cards() -> list[RecipeCard]:
    """The cards of all recipes that come with the package, by name."""
    return [read_card(recipe_text(name), name) for name in recipe_names()]


def read_card(text: str, name: str) -> RecipeCard:
    """The card in the header of a recipe.

    Raises:
        UsageError: the header lacks a field, or the text is no recipe.
    """
    title, fields = _header(text)
    missing = [field for field in _FIELDS if field not in fields and field != "variants"]
    if missing or not title:
        raise UsageError(f"the header of recipe '{name}' lacks: {', '.join(missing) or 'a title'}")
    told = {field: " ".join(line.strip() for line in lines) for field, lines in fields.items()}
    return RecipeCard(
        name=name,
        title=title,
        tasks=tuple(parse_recipe(text, name)),
        command=_commands(fields["command"]),
        variants=told.get("variants", ""),
        store=told["store"],
        hardware=told["hardware"],
        hours=None if told["hours"] == UNKNOWN_HOURS else told["hours"],
        expected=told["expected"],
        source=told["source"],
    )


def _header(text: str) -> tuple[str, dict[str, list[str]]]:
    """The title, and the lines of each field without its margin."""
    fields: dict[str, list[str]] = {}
    title, current = "", None
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        content = line[2:]
        word = content[:_MARGIN].strip()
        if not title:
            title = content
        elif word in _FIELDS:
            current = fields.setdefault(word, [])
            current.append(content[_MARGIN:])
        elif current is not None and not word:
            current.append(content[_MARGIN:])
    return title, fields


def _commands(lines: list[str]) -> tuple[str, ...]:
    commands: list[str] = []
    for line in lines:
        if line.startswith(" ") and commands:
            commands[-1] += f" {line.strip()}"
        else:
            commands.append(line.strip())
    return tuple(commands)
