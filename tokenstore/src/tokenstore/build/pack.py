"""Finished parts become a store: summed counts, vocabulary, codec tables, shards, manifest.

One part makes one shard, since the parts already lie in the final order: packing gathers nothing.
All of it is a pure function of the parts, so packing again after an interruption writes the same
bytes over the same names, and the manifest, which makes the store whole, comes last.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenstore import registry
from tokenstore.build.plan import Part, Plan
from tokenstore.build.tokenize import PartReport, read_part
from tokenstore.codecs.base import Codec, CodecSpec
from tokenstore.errors import BuildError
from tokenstore.manifest import (
    BLOCK,
    Column,
    Manifest,
    OrderEntry,
    SourceEntry,
    SplitEntry,
    TableSet,
    TokenizerEntry,
    columns_for,
    publish,
)
from tokenstore.sources.base import Rejected
from tokenstore.storage import Storage
from tokenstore.vocabulary import Vocabulary
from tokenstore.writer import (
    Reject,
    Samples,
    ShardPlan,
    write_rejects,
    write_shard,
    write_tables,
    write_vocabulary,
)

# Images that the codec's tables are fitted on: enough for a dictionary, few enough to hold.
SAMPLE_IMAGES = 8192
SAMPLE_PARTS = 64

Finished = tuple[Part, PartReport]


@dataclass(frozen=True)
class Packing:
    """What every shard is made with; `number` is the place of `tables` among the table sets."""

    plan: Plan
    staging: Storage
    target: Storage
    vocabulary: Vocabulary
    codec: Codec
    tables: TableSet
    number: int = 0
    block: int = BLOCK

    def shard(self, name: tuple[str, int], first: int, columns: tuple[Column, ...]) -> ShardPlan:
        """One shard: (split, number in the split), number of its first sample, columns."""
        return ShardPlan(*name, first, columns, self.number, self.tables, self.codec, self.block)


def pack(
    plan: Plan,
    finished: Sequence[Finished],
    places: tuple[Storage, Storage],
    codebook: NDArray[np.float32] | None,
    on_shard: Callable[[int], None] = lambda images: None,
) -> Manifest:
    """Write every file of the store, then publish its manifest.

    Args:
        plan: the plan of all the parts.
        finished: every part of the plan with its report, in the plan's order.
        places: where the parts are, and where the store is to be.
        codebook: float32 [codes, d] in the order of ids, None where the tokenizer has none.
        on_shard: told how many images each finished shard holds.

    Raises:
        BuildError: no image is left.
    """
    check_any(plan, finished)
    staging, target = places
    vocabulary = _vocabulary(plan, count_codes(plan, finished, staging), codebook)
    codec = fit_codec(plan, finished, vocabulary, staging)
    tables = write_tables(target, codec)
    packing = Packing(plan, staging, target, vocabulary, codec, tables)
    splits = {
        split: pack_split((split, new_split(plan, split)), finished, packing, on_shard)
        for split in plan.listing.splits
    }
    facts = plan.facts
    shuffled = facts["order"] != "input"
    rejects = [Reject(*reject) for reject in all_rejects(plan, finished)]
    manifest = Manifest(
        tokenizer=TokenizerEntry(**facts["tokenizer"]),
        preprocess=facts["preprocess"],
        grid=codec.spec.grid,
        vocabulary=write_vocabulary(target, vocabulary),
        table_sets=(tables,),
        splits=splits,
        classes=plan.listing.classes,
        ignore_index=plan.listing.ignore_index,
        source=SourceEntry(**facts["source"]),
        order=OrderEntry(rule=facts["order"], seed=facts["seed"] if shuffled else None),
        rejects=write_rejects(target, rejects),
        plan=plan.hash,
    )
    return publish(target, manifest)


def check_any(plan: Plan, finished: Sequence[Finished]) -> None:
    """Refuse to write a store, or a version of one, that would hold no new image.

    Raises:
        BuildError: no image is left.
    """
    if not any(report.count for _, report in finished):
        raise BuildError(
            f"none of the {plan.images()} images could be tokenized, so there is no store to make. "
            "Each is named above with its reason; give images that can be decoded."
        )


def all_rejects(plan: Plan, finished: Sequence[Finished]) -> list[Rejected]:
    """What was refused while listing and then while tokenizing, in the plan's order."""
    return [*plan.listing.rejects, *(r for _, report in finished for r in report.rejects)]


def _vocabulary(
    plan: Plan, counts: dict[str, NDArray[np.int64]], codebook: NDArray[np.float32] | None
) -> Vocabulary:
    """The ids that occur, or those of the vocabulary that the plan takes over."""
    if plan.vocabulary is None:
        return Vocabulary.from_counts(counts, codebook)
    return plan.vocabulary.recounted(counts, codebook)


def count_codes(
    plan: Plan, finished: Sequence[Finished], staging: Storage
) -> dict[str, NDArray[np.int64]]:
    """How often each code occurs in each split, int64 [codes]."""
    counts: dict[str, NDArray[np.int64]] = {}
    for part, _ in finished:
        found = read_part(part, staging).counts
        counts[part.split] = counts.get(part.split, 0) + found
    some = next(iter(counts.values()))
    return {split: counts.get(split, np.zeros_like(some)) for split in plan.listing.splits}


def fit_codec(
    plan: Plan, finished: Sequence[Finished], vocabulary: Vocabulary, staging: Storage
) -> Codec:
    """The codec that the plan names, with tables for the images of this store."""
    sample = vocabulary.to_ranks(_sample(finished, staging))
    spec = CodecSpec(len(vocabulary), sample.shape[1:])
    images = sum(report.count for _, report in finished)
    codec: Codec = registry.find("tokenstore.codecs", plan.facts["codec"]).fit(sample, spec, images)
    return codec


def _sample(finished: Sequence[Finished], staging: Storage) -> NDArray[np.integer]:
    """Ids that the codec's tables are fitted on, [n, *grid], evenly over the store.

    From train where it has images, else from everything; all images if there are few. At least
    `SAMPLE_PARTS` parts are opened if there are so many, and more only if they are small.
    """
    filled = [(part, report.count) for part, report in finished if report.count]
    filled = [pair for pair in filled if pair[0].split == "train"] or filled
    needed = SAMPLE_IMAGES * len(filled) // sum(count for _, count in filled) + 1
    chosen = [filled[i] for i in evenly(len(filled), max(SAMPLE_PARTS, needed))]
    share = SAMPLE_IMAGES // len(chosen) + 1
    return np.concatenate(
        [read_part(part, staging).ids[evenly(count, share)] for part, count in chosen]
    )


def evenly(n: int, most: int) -> NDArray[np.int64]:
    """`(10, 4) -> [0, 3, 6, 9]`: at most `most` of n positions, ends included."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))


def new_split(plan: Plan, split: str) -> SplitEntry:
    """A split without images, with the columns that a plan's images have."""
    classes = len(plan.listing.classes or ()) if plan.is_labelled(split) else None
    columns = columns_for(classes, keys=plan.facts["keys"], masks=plan.listing.has_masks)
    return SplitEntry(count=0, source_bytes=0, columns=columns, shards=())


def pack_split(
    begun: tuple[str, SplitEntry],
    finished: Sequence[Finished],
    packing: Packing,
    on_shard: Callable[[int], None],
) -> SplitEntry:
    """Write the finished parts of a split as shards behind those that it has.

    Args:
        begun: name of the split, and what it holds so far.
        finished: parts of any splits; those of this one are written.
        packing: what the shards are made with.
        on_shard: told how many images each finished shard holds.
    """
    split, entry = begun
    parts = [(part, report) for part, report in finished if part.split == split]
    shards, first = list(entry.shards), entry.count
    for part, report in parts:
        if report.count:  # a part may have lost every image
            shard = packing.shard((split, len(shards)), first, entry.columns)
            samples = _samples(part, packing, [column.name for column in entry.columns])
            shards.append(write_shard(packing.target, shard, [samples]))
            first += report.count
            on_shard(report.count)
    return SplitEntry(
        count=first,
        source_bytes=entry.source_bytes + sum(report.source_bytes for _, report in parts),
        columns=entry.columns,
        shards=tuple(shards),
    )


def _samples(part: Part, packing: Packing, columns: Sequence[str]) -> Samples:
    content = read_part(part, packing.staging)
    return Samples(
        ranks=packing.vocabulary.to_ranks(content.ids),
        labels=content.labels if "label" in columns else None,
        keys=content.keys if "key" in columns else None,
        masks=content.masks if "mask" in columns else None,
    )
