"""The card: `tokens.json`, what a folder of tokens says of itself.

Every export writes it and every import reads it, so that a store that went out and came back knows
its tokenizer, resizing and classes again. Whoever has tokens of a tokenizer that is known here may
write one by hand. An input without a card is of an unknown tokenizer. Data only.
"""

import json
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, JsonValue, ValidationError, model_validator

from tokenstore.entries import UNKNOWN, Dimension, Entry, TokenizerEntry, Word
from tokenstore.errors import SourceError
from tokenstore.manifest import Manifest

NAME = "tokens.json"


class TokenCard(Entry):
    """What is known of some tokens; every member may be missing.

    Attributes:
        tokenizer: as in a manifest.
        preprocess: as in a manifest; it goes with the tokenizer.
        grid: shape of one image's ids.
        classes: names in label order.
        splits: names of the splits, in order.
        ids: for each number that stands in the data its id, where they are not the same (seit).
    """

    tokenizer: TokenizerEntry | None = None
    preprocess: dict[str, JsonValue] = Field(default_factory=dict)
    grid: Annotated[tuple[Dimension, ...], Field(min_length=2, max_length=3)] | None = None
    classes: tuple[str, ...] | None = None
    splits: tuple[Word, ...] | None = None
    ids: tuple[Annotated[int, Field(ge=0)], ...] | None = None

    @model_validator(mode="after")
    def _known_together(self) -> Self:
        if (self.tokenizer is None) != (not self.preprocess):
            raise ValueError("tokenizer and preprocess are known together, or neither is")
        return self

    @classmethod
    def of(cls, manifest: Manifest, splits: tuple[str, ...]) -> "TokenCard":
        """The card of a store."""
        known = manifest.tokenizer.name != UNKNOWN
        return cls(
            tokenizer=manifest.tokenizer if known else None,
            preprocess=manifest.preprocess if known else {},
            grid=manifest.grid,
            classes=manifest.classes,
            splits=splits,
        )

    def write(self, folder: Path) -> None:
        """Write `tokens.json`."""
        told = self.model_dump(mode="json", exclude_defaults=True)
        (folder / NAME).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", "utf-8")


def read_card(folder: Path) -> TokenCard:
    """The card of a folder; an empty one where there is none.

    Raises:
        SourceError: it is damaged, or says what no card says.
    """
    file = folder / NAME
    try:
        return TokenCard.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return TokenCard()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise SourceError(
            f"'{file}': {place} is {str(first['input'])[:60]!r}: {first['msg']}. Correct it, or "
            "remove the file; the tokens are then of an unknown tokenizer."
        ) from error
