"""The plan of a build: which images, in which order, cut into which parts, tokenized how.

It is made before any image is opened and is a pure function of the listing, the options and the
installed versions. Its hash names the build: finished parts, and finally the store, carry it, so
that work of another plan is never mixed in. Nothing of the machine (workers, paths) is in it.
"""

import hashlib
import importlib.metadata
import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xxhash

from tokenstore.build.views import Views
from tokenstore.choice import TokenizerChoice
from tokenstore.errors import UsageError
from tokenstore.sources.base import Item, Listing, Rejected, SourceOptions

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
    image_column: str | None = None
    label_column: str | None = None
    views: int = 1
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
        return SourceOptions(**{f.name: getattr(self, f.name) for f in fields(SourceOptions)})


@dataclass(frozen=True)
class Slot:
    """The place of a part: images `start` to `start + count` of its split's final order."""

    split: str
    number: int
    start: int
    count: int

    @property
    def name(self) -> str:
        """`train-000000`."""
        return f"{self.split}-{self.number:06d}"


@dataclass(frozen=True)
class Part:
    """A run of neighbours of the final order: the unit of work, and one shard of the store."""

    slot: Slot
    items: tuple[Item, ...]

    @property
    def split(self) -> str:
        """The split that it belongs to."""
        return self.slot.split

    @property
    def name(self) -> str:
        """`train-000000`."""
        return self.slot.name


@dataclass(frozen=True)
class Outline:
    """A listing without its images: what packing needs, however many images there are.

    Attributes:
        splits: images of each split.
        labelled: the splits whose images have labels.
        classes: their names, in label order.
        rejects: what was refused while listing.
        notes: what a user should know of the listing.
        ignore_index: mask value of no class.
        has_masks: whether images have masks.
        has_meta: whether they have metadata.
    """

    splits: Mapping[str, int]
    labelled: tuple[str, ...]
    classes: tuple[str, ...] | None
    rejects: tuple[Rejected, ...] = ()
    notes: tuple[str, ...] = ()
    ignore_index: int | None = None
    has_masks: bool = False
    has_meta: bool = False


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
class BuildPlan(WorkPlan):
    """A build, decided, wherever the list of its images lies.

    `vocabulary` is that of another store, to be taken over; None makes one of what occurs.
    """

    part_size: int
    vocabulary: "Vocabulary | None"

    @property
    @abstractmethod
    def outline(self) -> Outline:
        """What there is beside the images."""

    @abstractmethod
    def part(self, slot: Slot) -> Part:
        """One part with its images."""

    def slots(self) -> list[Slot]:
        """The places of all parts, split by split, in order."""
        return [
            Slot(split, number, start, min(self.part_size, count - start))
            for split, count in self.outline.splits.items()
            for number, start in enumerate(range(0, count, self.part_size))
        ]

    def parts(self) -> Iterator[Part]:
        """All parts, in order."""
        return map(self.part, self.slots())

    def images(self) -> int:
        """Images to tokenize."""
        return sum(self.outline.splits.values())

    @property
    def order_rule(self) -> str:
        """How the samples are ordered, as a manifest says it: "archives-16384" for example."""
        window, order = self.facts.get("window"), str(self.facts["order"])
        return f"archives-{window}" if window and order == "shuffled" else order

    def is_labelled(self, split: str) -> bool:
        """Whether the images of a split have labels; an empty split has them if the corpus has."""
        return split in self.outline.labelled

    def _pairs(self, manifest: "Manifest") -> dict[str, tuple[Any, Any]]:
        return {
            **super()._pairs(manifest),
            "tokenizer": (manifest.tokenizer.model_dump(), self.facts["tokenizer"]),
            "preprocess": (manifest.preprocess, self.facts["preprocess"]),
            "order": (manifest.order.rule, self.order_rule),
        }


@dataclass(frozen=True)
class Plan(BuildPlan):
    """A plan with the list of its images in memory, in the final order."""

    listing: Listing

    @property
    def outline(self) -> Outline:
        """See `BuildPlan.outline`."""
        listing = self.listing
        labelled = [
            split for split, items in listing.splits.items() if _is_labelled(listing, items)
        ]
        counts = {split: len(items) for split, items in listing.splits.items()}
        facts = (listing.classes, listing.rejects, listing.notes, listing.ignore_index)
        has_meta = listing.has_meta or "views" in self.facts["preprocess"]
        return Outline(counts, tuple(labelled), *facts, listing.has_masks, has_meta)

    def part(self, slot: Slot) -> Part:
        """See `BuildPlan.part`."""
        items = self.listing.splits[slot.split]
        return Part(slot, items[slot.start : slot.start + slot.count])


def _is_labelled(listing: Listing, items: Sequence[Item]) -> bool:
    if items:
        return items[0].label is not None
    return listing.classes is not None and not listing.has_masks


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
    for name in ("batch_size", "part_size", "limit", "views"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}; it must be at least 1")
    if options.views > 1 and listing.has_masks:
        raise UsageError(
            f"--views {options.views} does not go with masks: a mask is kept once an image, and "
            "fits only the plain one. Leave out --views."
        )
    splits = {
        split: tuple(_in_order(split, listing, options)[: options.limit])
        for split in listing.splits
    }
    facts = {
        "source": {"kind": kind, "listing": listing.sha256()},
        "splits": {split: len(items) for split, items in splits.items()},
        **option_facts(tokenizer, options, vocabulary),
    }
    if listing.runs:
        facts["window"] = listing.window
    return Plan(facts, options.part_size, vocabulary, replace(listing, splits=splits))


def option_facts(
    tokenizer: "Tokenizer", options: BuildOptions, vocabulary: "Vocabulary | None"
) -> dict[str, Any]:
    """The facts of a plan that do not depend on its images."""
    identity = (tokenizer.name, tokenizer.weights_sha256)
    return {
        "plan": PLAN_FORMAT,
        "tokenizer": {
            "name": options.tokenizer,
            "config": tokenizer.describe(),
            "weights": tokenizer.weights_sha256,
        },
        "preprocess": {
            **tokenizer.preprocessing.as_json(),
            **Views(options.views, options.seed).as_json(),
        },
        "vocabulary": None if vocabulary is None else vocabulary.fingerprint(*identity),
        "device": options.device.partition(":")[0],
        **{name: getattr(options, name) for name in COPIED},
        "versions": locked_versions(),
    }


def locked_versions() -> dict[str, str]:
    """Versions of the packages that can change a byte."""
    return {name: importlib.metadata.version(name) for name in LOCKED}


def differences(facts: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
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


def _in_order(split: str, listing: Listing, options: BuildOptions) -> Sequence[Item]:
    """The items of a split in the order of the store.

    The shuffled order sorts by a hash of seed, split and key. It needs no generator whose stream
    could change with a library's version, and an image's place depends on no other image. Archives
    are sorted so by their first keys, and then windows of neighbours by theirs.
    """
    items = listing.splits[split]
    if options.order == "input":
        return items

    def place(item: Item) -> tuple[int, str]:
        name = f"{split}/{item.key}".encode()
        return xxhash.xxh3_64_intdigest(name, seed=options.seed), item.key

    if split not in listing.runs:
        return sorted(items, key=place)
    ends = list(accumulate(listing.runs[split]))
    archives = [tuple(items[start:end]) for start, end in pairwise([0, *ends])]
    archives.sort(key=lambda some: place(some[0]))
    sequence = [item for archive in archives for item in archive]
    for start in range(0, len(sequence), listing.window):
        window = slice(start, start + listing.window)
        sequence[window] = sorted(sequence[window], key=place)
    return sequence
