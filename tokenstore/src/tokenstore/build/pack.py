"""Finished parts become a store: summed counts, vocabulary, codec tables, shards, manifest.

One part makes one shard, since the parts already lie in the final order: packing gathers nothing,
and shards are made side by side. All of it is a pure function of the parts, so packing again after
an interruption writes the same bytes over the same names; a shard whose receipt
`packed/NAME.json` is in the staging folder, and whose files are sound, is left alone. The manifest,
which makes the store whole, comes last.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenstore import registry
from tokenstore.build.plan import BuildPlan
from tokenstore.build.tokenize import PartContent, PartReport, read_counts, read_part
from tokenstore.codecs.base import Codec, CodecSpec
from tokenstore.errors import BuildError
from tokenstore.manifest import (
    BLOCK,
    Column,
    Manifest,
    OrderEntry,
    ShardEntry,
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

OnShard = Callable[[int], None]


@dataclass(frozen=True)
class Packer:
    """How the shards are made: how many at a time, and who is told of each."""

    workers: int = 1
    on_shard: OnShard = lambda images: None


@dataclass(frozen=True)
class Packing:
    """What every shard is made with; `number` is the place of `tables` among the table sets."""

    plan: BuildPlan
    staging: Storage
    target: Storage
    vocabulary: Vocabulary
    codec: Codec
    tables: TableSet
    number: int = 0
    block: int = BLOCK
    packer: Packer = Packer()

    def shard(self, name: tuple[str, int], first: int, columns: tuple[Column, ...]) -> ShardPlan:
        """One shard: (split, number in the split), number of its first sample, columns."""
        return ShardPlan(*name, first, columns, self.number, self.tables, self.codec, self.block)


def pack(
    plan: BuildPlan,
    finished: Sequence[PartReport],
    places: tuple[Storage, Storage],
    codebook: NDArray[np.float32] | None,
    packer: Packer = Packer(),
) -> Manifest:
    """Write every file of the store, then publish its manifest.

    Args:
        plan: the plan of all the parts.
        finished: the reports of all its parts, in the plan's order.
        places: where the parts are, and where the store is to be.
        codebook: float32 [codes, d] in the order of ids, None where the tokenizer has none.
        packer: how many shards are made at a time, and who hears of it.

    Raises:
        BuildError: no image is left, or a part has changed since it was finished.
    """
    check_any(plan, finished)
    staging, target = places
    vocabulary = _vocabulary(plan, count_codes(plan, finished, staging), codebook)
    codec = fit_codec(plan, finished, vocabulary, staging)
    tables = write_tables(target, codec)
    packing = Packing(plan, staging, target, vocabulary, codec, tables, packer=packer)
    splits = {
        split: pack_split((split, new_split(plan, split)), finished, packing)
        for split in plan.outline.splits
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
        classes=plan.outline.classes,
        ignore_index=plan.outline.ignore_index,
        source=SourceEntry(**facts["source"]),
        order=OrderEntry(rule=plan.order_rule, seed=facts["seed"] if shuffled else None),
        rejects=write_rejects(target, rejects),
        plan=plan.hash,
    )
    return publish(target, manifest)


def check_any(plan: BuildPlan, finished: Sequence[PartReport]) -> None:
    """Refuse to write a store, or a version of one, that would hold no new image.

    Raises:
        BuildError: no image is left.
    """
    if not any(report.count for report in finished):
        raise BuildError(
            f"none of the {plan.images()} images could be tokenized, so there is no store to make. "
            "Each is named above with its reason; give images that can be decoded."
        )


def all_rejects(plan: BuildPlan, finished: Sequence[PartReport]) -> list[Rejected]:
    """What was refused while listing and then while tokenizing, in the plan's order."""
    return [*plan.outline.rejects, *(r for report in finished for r in report.rejects)]


def _vocabulary(
    plan: BuildPlan, counts: dict[str, NDArray[np.int64]], codebook: NDArray[np.float32] | None
) -> Vocabulary:
    """The ids that occur, or those of the vocabulary that the plan takes over."""
    if plan.vocabulary is None:
        return Vocabulary.from_counts(counts, codebook)
    return plan.vocabulary.recounted(counts, codebook)


def count_codes(
    plan: BuildPlan, finished: Sequence[PartReport], staging: Storage
) -> dict[str, NDArray[np.int64]]:
    """How often each code occurs in each split, int64 [codes]."""
    counts: dict[str, NDArray[np.int64]] = {}
    for report in finished:
        found = read_counts(report, staging)
        counts[report.split] = counts.get(report.split, 0) + found
    some = next(iter(counts.values()))
    return {split: counts.get(split, np.zeros_like(some)) for split in plan.outline.splits}


def fit_codec(
    plan: BuildPlan, finished: Sequence[PartReport], vocabulary: Vocabulary, staging: Storage
) -> Codec:
    """The codec that the plan names, with tables for the images of this store."""
    sample = vocabulary.to_ranks(_sample(finished, staging))
    spec = CodecSpec(len(vocabulary), sample.shape[1:])
    images = sum(report.count for report in finished)
    codec: Codec = registry.find("tokenstore.codecs", plan.facts["codec"]).fit(sample, spec, images)
    return codec


def _sample(finished: Sequence[PartReport], staging: Storage) -> NDArray[np.integer]:
    """Ids that the codec's tables are fitted on, [n, *grid], evenly over the store.

    From train where it has images, else from everything; all images if there are few. At least
    `SAMPLE_PARTS` parts are opened if there are so many, and more only if they are small.
    """
    filled = [report for report in finished if report.count]
    filled = [report for report in filled if report.split == "train"] or filled
    needed = SAMPLE_IMAGES * len(filled) // sum(report.count for report in filled) + 1
    chosen = [filled[i] for i in evenly(len(filled), max(SAMPLE_PARTS, needed))]
    share = SAMPLE_IMAGES // len(chosen) + 1
    return np.concatenate(
        [read_part(report, staging).ids[evenly(report.count, share)] for report in chosen]
    )


def evenly(n: int, most: int) -> NDArray[np.int64]:
    """`(10, 4) -> [0, 3, 6, 9]`: at most `most` of n positions, ends included."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))


def new_split(plan: BuildPlan, split: str) -> SplitEntry:
    """A split without images, with the columns that a plan's images have."""
    classes = len(plan.outline.classes or ()) if plan.is_labelled(split) else None
    columns = columns_for(
        classes,
        keys=plan.facts["keys"],
        masks=plan.outline.has_masks,
        meta=plan.outline.has_meta,
        views="views" in plan.facts["preprocess"],
    )
    return SplitEntry(count=0, source_bytes=0, columns=columns, shards=())


def pack_split(
    begun: tuple[str, SplitEntry], finished: Sequence[PartReport], packing: Packing
) -> SplitEntry:
    """Write the finished parts of a split as shards behind those that it has.

    Args:
        begun: name of the split, and what it holds so far.
        finished: parts of any splits; those of this one are written.
        packing: what the shards are made with.
    """
    split, entry = begun
    reports = [report for report in finished if report.split == split]
    filled = [report for report in reports if report.count]  # a part may have lost every image
    firsts = entry.count + np.cumsum([0, *(report.count for report in filled)])
    shards = [
        packing.shard((split, len(entry.shards) + place), int(firsts[place]), entry.columns)
        for place in range(len(filled))
    ]
    with ThreadPoolExecutor(packing.packer.workers) as threads:
        try:
            work = threads.map(partial(_pack_part, packing), filled, shards)
            written = []
            for shard in work:
                packing.packer.on_shard(shard.count)
                written.append(shard)
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    return SplitEntry(
        count=int(firsts[-1]),
        source_bytes=entry.source_bytes + sum(report.source_bytes for report in reports),
        columns=entry.columns,
        shards=(*entry.shards, *written),
    )


def _pack_part(packing: Packing, report: PartReport, shard: ShardPlan) -> ShardEntry:
    """One shard, unless an interrupted packing has made it of the very same."""
    receipt, made_of = f"packed/{shard.name}.json", _made_of(report, shard, packing)
    try:
        known = json.loads(packing.staging.read(receipt))
        entry = ShardEntry.model_validate(known["shard"])
        if known["made_of"] == made_of and _is_sound(entry, packing.target):
            return entry
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        pass  # no receipt, or half of one: the shard is made
    content = read_part(report, packing.staging)
    names = [column.name for column in shard.columns]
    samples = Samples(
        ranks=packing.vocabulary.to_ranks(content.ids),
        labels=content.labels if "label" in names else None,
        keys=content.keys if "key" in names else None,
        masks=content.masks if "mask" in names else None,
        meta=_meta(content) if "meta" in names else None,
        views=content.views if "view" in names else None,
    )
    entry = write_shard(packing.target, shard, [samples])
    known = {"made_of": made_of, "shard": entry.model_dump(mode="json")}
    packing.staging.create(receipt, json.dumps(known).encode())
    return entry


def _meta(content: PartContent) -> list[dict[str, Any]]:
    lines = ["{}"] * len(content.ids) if content.meta is None else content.meta
    return [json.loads(line) for line in lines]


def _made_of(report: PartReport, shard: ShardPlan, packing: Packing) -> str:
    """A name for everything that decides a shard's bytes."""
    digest = hashlib.sha256(packing.vocabulary.ids.tobytes())
    facts = [
        report.sha256,
        shard.first,
        shard.tables,
        shard.block,
        shard.table_set.model_dump(mode="json"),
    ]
    digest.update(json.dumps(facts).encode())
    return digest.hexdigest()


def _is_sound(entry: ShardEntry, target: Storage) -> bool:
    """Whether the files of a shard are there with the bytes that they had."""
    return all(
        hashlib.sha256(target.read(file.name)).hexdigest() == file.sha256
        for file in (entry.shard, entry.index)
    )
