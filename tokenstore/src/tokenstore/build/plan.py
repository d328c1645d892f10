"""The plan of a build: which images, in which order, cut into which parts, tokenized how.

It is made before any image is opened and is a pure function of the listing, the options and the
installed versions. Its hash names the build: finished parts, and finally the store, carry it, so
that work of another plan is never mixed in. Nothing of the machine (workers, paths) is in it.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xxhash

from tokenstore.choice import TokenizerChoice
from tokenstore.errors import UsageError
from tokenstore.sources.base import Item, Listing, SourceOptions

if TYPE_CHECKING:
    from tokenstore.manifest import Manifest
    from tokenstore.tokenizers.base import Tokenizer
    from tokenstore.vocabulary import Vocabulary

PLAN_FORMAT = 0
LOCKED = ("tokenstore", "numpy", "torch", "pillow", "zstandard")
COPIED = ("codec", "batch_size", "precision", "part_size", "limit", "seed", "order", "keys")
Order = Literal["shuffled", "input"]


@dataclass(frozen=True)
class BuildOptions(TokenizerChoice):
    """What a user decides about a store, beside the tokenizer; each can change its bytes.

    Attributes:
        vocabulary: place of a store whose codes alone are searched, and whose ranks are kept.
    """

    vocabulary: str | None = None
    source: str | None = None
    classes: Path | None = None
    masks: str | None = None
    ignore_index: int | None = None
    codec: str = "zstd"
    batch_size: int = 32
    part_size: int = 16_384
    limit: int | None = None
    seed: int = 0
    order: Order = "shuffled"
    keys: bool = True

    @property
    def of_source(self) -> SourceOptions:
        """What of it says something of the corpus."""
        return SourceOptions(self.classes, self.masks, self.ignore_index)


@dataclass(frozen=True)
class Part:
    """A run of neighbours of the final order: the unit of work, and one shard of the store."""

    split: str
    number: int
    items: tuple[Item, ...]

    @property
    def name(self) -> str:
        """`train-000000`."""
        return f"{self.split}-{self.number:06d}"


@dataclass(frozen=True)
class WorkPlan:
    """Work that makes a store, decided: `facts` is JSON, and what the hash covers.

    Among the facts are `source` ({kind, listing}) and `codec`.
    """

    facts: dict[str, Any]

    @property
    def hash(self) -> str:
        """Name of the work: sha256 of the facts as canonical JSON."""
        text = json.dumps(self.facts, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def as_json(self) -> str:
        """The text of `plan.json`, to look at and to compare with."""
        return json.dumps({**self.facts, "hash": self.hash}, indent=1, sort_keys=True) + "\n"

    def unlike(self, manifest: "Manifest") -> list[str]:
        """What a store has other than this plan would make it, in the words of a user."""
        return [name for name, (found, wanted) in self._pairs(manifest).items() if found != wanted]

    def _pairs(self, manifest: "Manifest") -> dict[str, tuple[Any, Any]]:
        """What a store and this plan say of the same things."""
        return {
            "input": (manifest.source.listing, self.facts["source"]["listing"]),
            "codec": ([tables.codec for tables in manifest.table_sets], [self.facts["codec"]]),
        }


@dataclass(frozen=True)
class Plan(WorkPlan):
    """A build, decided: `listing` is in its final order, cut into parts of `part_size` images.

    `vocabulary` is that of another store, to be taken over; None makes one of what occurs.
    """

    listing: Listing
    part_size: int
    vocabulary: "Vocabulary | None" = None

    def parts(self) -> Iterator[Part]:
        """All parts, split by split, in order."""
        for split, items in self.listing.splits.items():
            for number, start in enumerate(range(0, len(items), self.part_size)):
                yield Part(split, number, items[start : start + self.part_size])

    def images(self) -> int:
        """Images to tokenize."""
        return sum(map(len, self.listing.splits.values()))

    def is_labelled(self, split: str) -> bool:
        """Whether the images of a split have labels; an empty split has them if the corpus has."""
        items = self.listing.splits[split]
        if items:
            return items[0].label is not None
        return self.listing.classes is not None and not self.listing.has_masks

    def _pairs(self, manifest: "Manifest") -> dict[str, tuple[Any, Any]]:
        return {
            **super()._pairs(manifest),
            "tokenizer": (manifest.tokenizer.model_dump(), self.facts["tokenizer"]),
            "preprocess": (manifest.preprocess, self.facts["preprocess"]),
            "order": (manifest.order.rule, self.facts["order"]),
        }


def make_plan(
    kind: str,
    listing: Listing,
    tokenizer: "Tokenizer",
    options: BuildOptions,
    vocabulary: "Vocabulary | None" = None,
) -> Plan:
    """Decide a build.

    Args:
        kind: name of the source that made the listing.
        listing: all images, in the source's order.
        tokenizer: loaded, since its settings and weights are part of the plan.
        options: what the user decided; the tokenizer is named.
        vocabulary: of the store that `options.vocabulary` names.

    Raises:
        UsageError: a number that makes no sense.
    """
    for name in ("batch_size", "part_size", "limit"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1")
    splits = {
        split: tuple(_in_order(split, items, options)[: options.limit])
        for split, items in listing.splits.items()
    }
    identity = (tokenizer.name, tokenizer.weights_sha256)
    facts = {
        "plan": PLAN_FORMAT,
        "source": {"kind": kind, "listing": listing.sha256()},
        "splits": {split: len(items) for split, items in splits.items()},
        "tokenizer": {
            "name": options.tokenizer,
            "config": tokenizer.describe(),
            "weights": tokenizer.weights_sha256,
        },
        "preprocess": tokenizer.preprocessing.as_json(),
        "vocabulary": None if vocabulary is None else vocabulary.fingerprint(*identity),
        "device": options.device.partition(":")[0],
        **{name: getattr(options, name) for name in COPIED},
        "versions": locked_versions(),
    }
    ordered = replace(listing, splits=splits)
    return Plan(facts, ordered, options.part_size, vocabulary)


def locked_versions() -> dict[str, str]:
    """Versions of the packages that can change a byte."""
    return {name: importlib.metadata.version(name) for name in LOCKED}


def differences(facts: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """What two plans disagree about: `["seed: 0, was 1"]`."""
    names = sorted((facts.keys() | other.keys()) - {"hash"})
    return [
        f"{name}: {_short(facts.get(name))}, was {_short(other.get(name))}"
        for name in names
        if facts.get(name) != other.get(name)
    ]


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _in_order(split: str, items: Sequence[Item], options: BuildOptions) -> Sequence[Item]:
    """Items in the order of the store.

    The shuffled order sorts by a hash of seed, split and key. It needs no generator whose stream
    could change with a library's version, and an image's place depends on no other image.
    """
    if options.order == "input":
        return items

    def place(item: Item) -> tuple[int, str]:
        name = f"{split}/{item.key}".encode()
        return xxhash.xxh3_64_intdigest(name, seed=options.seed), item.key

    return sorted(items, key=place)
