"""Importing: an input of any format becomes a store, in two readings and bounded memory.

The first reading surveys (`screening`), so that everything wrong is told before a byte is written;
the second writes the shards, in the order of the input, and must meet the same samples again. The
place of the store is claimed, continued and left as a build's is: a finished shard of the same plan
is kept, the manifest comes last.
"""

import hashlib
import importlib.metadata
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import numpy as np

from tokenstore import registry
from tokenstore.build.output import claim_output
from tokenstore.build.plan import WorkPlan
from tokenstore.codecs.base import CodecSpec
from tokenstore.entries import UNKNOWN, FileEntry, ShardEntry, SplitEntry, TokenizerEntry
from tokenstore.errors import SourceError, UnknownName
from tokenstore.interop.arrays import LARGEST_ID
from tokenstore.interop.base import Chunk, Format, ImportRequest, Incoming
from tokenstore.interop.labels import Labels, read_labels
from tokenstore.interop.screening import Survey, screened
from tokenstore.manifest import (
    Manifest,
    OrderEntry,
    SourceEntry,
    columns_for,
    load_manifest,
    publish,
)
from tokenstore.progress import WorkProgress
from tokenstore.storage import Storage
from tokenstore.vocabulary import Vocabulary
from tokenstore.writer import (
    Samples,
    ShardPlan,
    write_rejects,
    write_shard,
    write_tables,
    write_vocabulary,
)

SHARD_IMAGES = 16_384
LOCKED = ("tokenstore", "numpy", "zstandard")


@dataclass(frozen=True)
class ImportOptions:
    """What a user decides about the store; each can change its bytes.

    Attributes:
        codec: how ranks become bytes.
        keys: whether the names of the images are kept.
    """

    codec: str = "zstd"
    keys: bool = True


@dataclass(frozen=True)
class ImportReport:
    """What an import came to; not `is_new` if the same store was whole before."""

    place: str
    manifest: Manifest
    is_new: bool
    notes: list[str]


@dataclass(frozen=True)
class _Packing:
    """What every shard is made with."""

    target: Storage
    vocabulary: Vocabulary
    survey: Survey
    shard: ShardPlan  # of no split yet
    progress: WorkProgress
    seen: Survey  # of the second reading
    keys: bool = True


def find_format(kind: str) -> type[Format]:
    """The format of that name.

    Raises:
        UnknownName: there is none; lists the known ones.
    """
    try:
        found: type[Format] = registry.find("tokenstore.interop", kind)
    except UnknownName as error:
        raise UnknownName("format", kind, error.known) from error
    return found


def import_store(
    kind: str,
    request: ImportRequest,
    place: str | Path,
    options: ImportOptions,
    stream: TextIO | None = None,
) -> ImportReport:
    """Make a store of tokens that lie in another format, or continue where a call was interrupted.

    Args:
        kind: name of the format.
        request: the input.
        place: folder of the store; beside it `PLACE.building/` marks what is unfinished.
        options: what to make.
        stream: where progress goes; standard error by default.

    Raises:
        UnknownName: no such format or codec.
        SourceError: the input cannot be used; names file and sample.
        Mismatch: more ids occur than a vocabulary holds.
        BuildError: the place is taken.
    """
    registry.find("tokenstore.codecs", options.codec)
    incoming = find_format(kind).open(request)
    if request.labels is not None:
        incoming = _labelled(incoming, request.labels)
    stream = stream or sys.stderr
    survey = _surveyed(incoming, options, stream)
    plan = _plan(kind, survey, options)
    output = claim_output(place, plan)
    if output.is_done:
        output.clear_staging()
        whole = load_manifest(output.target)
        return ImportReport(output.target.url, whole, is_new=False, notes=incoming.notes)
    try:
        with WorkProgress("packing", survey.images, stream=stream) as progress:
            manifest = _pack(plan, survey, output.target, progress, options)
    except (
        SourceError
    ):  # it was sound when it was surveyed, so shards of something else may lie here
        for name in output.target.names():
            output.target.remove(name)
        raise
    output.clear_staging()
    return ImportReport(output.target.url, manifest, is_new=True, notes=incoming.notes)


def _labelled(incoming: Incoming, file: Path) -> Incoming:
    """The input with labels from a file, one an image."""
    if len(incoming.splits) != 1:
        raise SourceError(
            f"'{file}' labels one split, the input has {', '.join(incoming.splits)}. Import them "
            "one by one, or put a file of labels beside each."
        )
    ((split, read),) = incoming.splits.items()
    labels = read_labels(file)
    if incoming.images not in (None, len(labels)):
        raise _other_length(file, labels, incoming.images or 0)

    def chunks() -> Iterator[Chunk]:
        first = 0
        for chunk in read():
            yield replace(chunk, labels=labels[first : first + len(chunk)])
            first += len(chunk)
            if first > len(labels):
                raise _other_length(file, labels, first)
        if first != len(labels):
            raise _other_length(file, labels, first)

    return replace(incoming, splits={split: chunks})


def _other_length(file: Path, labels: Labels, images: int) -> SourceError:
    return SourceError(
        f"'{file}' has {len(labels)} labels, the input {images} images or more. Give one label an "
        "image, in the order of the input."
    )


def _surveyed(incoming: Incoming, options: ImportOptions, stream: TextIO) -> Survey:
    """The first reading."""
    survey = Survey(incoming)
    with WorkProgress("reading", incoming.images, stream=stream) as progress:
        for split in incoming.splits:
            for chunk in screened(incoming, split, keys=options.keys):
                survey.see(split, chunk)
                progress.advance(len(chunk))
            if not survey.splits[split].images:
                raise SourceError(f"split '{split}' of the input has no image. Leave it out.")
        survey.refuse_repeated_keys()
        for note in incoming.notes:
            progress.say(note)
    return survey


def _plan(kind: str, survey: Survey, options: ImportOptions) -> WorkPlan:
    """The import as a plan, whose hash names it."""
    incoming = survey.incoming
    facts = {
        "plan": 0,
        "source": {"kind": kind, "listing": survey.listing()},
        "splits": {name: split.images for name, split in survey.splits.items()},
        "tokenizer": _tokenizer(incoming).model_dump(mode="json"),
        "preprocess": incoming.card.preprocess,
        "codec": options.codec,
        "order": "input",
        "seed": None,
        "versions": {name: importlib.metadata.version(name) for name in LOCKED},
    }
    return WorkPlan(facts)


def _tokenizer(incoming: Incoming) -> TokenizerEntry:
    """What the card says, or else an unknown one that is told apart by its codebook."""
    codebook = incoming.codebook
    unknown = TokenizerEntry(name=UNKNOWN, config={}, weights=codebook.sha256 if codebook else None)
    return incoming.card.tokenizer or unknown


def _pack(
    plan: WorkPlan, survey: Survey, target: Storage, progress: WorkProgress, options: ImportOptions
) -> Manifest:
    """The second reading: every file of the store, then its manifest."""
    incoming = survey.incoming
    rows = incoming.codebook.rows if incoming.codebook else None
    vocabulary = Vocabulary.from_counts(survey.counts(), rows)
    kind = registry.find("tokenstore.codecs", options.codec)
    spec = CodecSpec(len(vocabulary), incoming.grid)
    codec = kind.fit(vocabulary.to_ranks(survey.sample()), spec, survey.images)
    tables = write_tables(target, codec)
    shard = ShardPlan("", 0, 0, (), 0, tables, codec)
    seen = Survey(incoming)
    packing = _Packing(target, vocabulary, survey, shard, progress, seen, options.keys)
    manifest = Manifest(
        tokenizer=_tokenizer(incoming),
        preprocess=incoming.card.preprocess,
        grid=incoming.grid,
        vocabulary=write_vocabulary(target, vocabulary),
        table_sets=(tables,),
        splits={split: _split(split, packing) for split in incoming.splits},
        classes=survey.classes.listed(),
        source=SourceEntry(**plan.facts["source"]),
        order=OrderEntry(rule="input", seed=None),
        rejects=write_rejects(target, []),
        plan=plan.hash,
    )
    if seen.listing() != survey.listing():
        raise SourceError(
            "the input has changed while it was read. Run the same line again when nobody writes "
            f"to it; what was made at '{target.url}' is removed."
        )
    return publish(target, manifest)


def _split(split: str, packing: _Packing) -> SplitEntry:
    counted, classes = packing.survey.splits[split], packing.survey.classes.listed()
    columns = columns_for(
        len(classes or ()) if "labels" in counted.columns else None,
        keys="keys" in counted.columns,
        meta="meta" in counted.columns,
        views="views" in counted.columns,
    )
    samples = _Samples(_ranked(split, packing))
    shards = []
    for number, first in enumerate(range(0, counted.images, SHARD_IMAGES)):
        plan = replace(packing.shard, split=split, number=number, first=first, columns=columns)
        count = min(SHARD_IMAGES, counted.images - first)
        shards.append(_shard(packing.target, plan, samples.take(count), count))
        packing.progress.advance(count)
    samples.finish()
    return SplitEntry(count=counted.images, source_bytes=0, columns=columns, shards=tuple(shards))


def _shard(target: Storage, plan: ShardPlan, samples: Iterator[Samples], count: int) -> ShardEntry:
    """Write a shard, or keep the one that an interrupted import has finished."""
    names = (f"{plan.name}.tar", f"{plan.name}.index")
    if not all(map(target.exists, names)):
        return write_shard(target, plan, samples)
    for _ in samples:  # read and compared all the same
        pass
    shard, index = (_entry(target, name) for name in names)
    return ShardEntry(count=count, tables=plan.tables, shard=shard, index=index)


def _entry(target: Storage, name: str) -> FileEntry:
    content = target.read(name)
    return FileEntry(name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _ranked(split: str, packing: _Packing) -> Iterator[Samples]:
    """The samples of a split with ranks for ids and numbers for labels."""
    incoming, ids = packing.survey.incoming, packing.vocabulary.ids
    # A table, since searching costs as much as all the rest. An id that the first reading has not
    # met becomes rank 0, in a store that is never published: the two readings differ.
    rank_of = np.zeros(LARGEST_ID, np.uint16)
    rank_of[ids] = np.arange(len(ids))
    for chunk in screened(incoming, split, keys=packing.keys):
        packing.seen.see(split, chunk)
        labels = chunk.labels
        yield Samples(
            ranks=rank_of[chunk.ids],
            labels=None if labels is None else packing.survey.classes.numbers(labels),
            keys=chunk.keys,
            meta=chunk.meta,
            views=chunk.views,
        )


class _Samples:
    """A stream of samples that is taken in runs of any length."""

    def __init__(self, chunks: Iterator[Samples]) -> None:
        self._chunks = chunks

    def take(self, count: int) -> Iterator[Samples]:
        """The next `count` samples."""
        while count > 0:
            chunk = next(self._chunks, None)
            if chunk is None:
                return  # fewer than before; told when both readings are compared
            if len(chunk) > count:
                self._chunks = itertools.chain([chunk[count:]], self._chunks)
                chunk = chunk[:count]
            count -= len(chunk)
            yield chunk

    def finish(self) -> None:
        """Read what nobody took, so that more samples than before are noticed."""
        for _ in self._chunks:
            pass
