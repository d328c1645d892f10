"""Several stores of one tokenizer become one.

Their samples follow each other in the order in which the stores are named, split by split. The
vocabulary is that of a store built of all of them: the ids that occur, ordered by their count in
train. Labels go by the name of the class: the classes of the first store keep their labels, those
that only later stores have come behind. Of two samples of a split with one key the later one
becomes a reject, beside the rejects of the stores themselves.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tokenstore import registry
from tokenstore.build.output import Output, claim_output
from tokenstore.build.plan import PLAN_FORMAT, WorkPlan, locked_versions
from tokenstore.build.run import BuildReport, Running
from tokenstore.codecs.base import CodecSpec
from tokenstore.errors import Mismatch, UsageError
from tokenstore.listed import load_rejects
from tokenstore.manifest import (
    Manifest,
    OrderEntry,
    SourceEntry,
    load_manifest,
    publish,
)
from tokenstore.operations.repack import (
    Form,
    NewSplit,
    Piece,
    columns_like,
    count_ranks,
    fit_form,
    write_splits,
)
from tokenstore.operations.repeated import Repeated, repeated_keys
from tokenstore.progress import WorkProgress
from tokenstore.reader import Store, open_store
from tokenstore.space import least_store, room_for
from tokenstore.vocabulary import Vocabulary
from tokenstore.writer import Reject, write_rejects, write_tables, write_vocabulary

ORDER = "concatenated"


@dataclass(frozen=True)
class MergeOptions:
    """What a user decides: codec (None: that of the first store), images of a shard."""

    codec: str | None = None
    shard_size: int = 16_384


def merge_stores(
    places: Sequence[str], place: str | Path, options: MergeOptions, running: Running
) -> BuildReport:
    """Make one store of several, or continue where an earlier call was interrupted.

    Raises:
        UsageError: fewer than two stores, or one of them twice.
        Mismatch: they are not of one tokenizer, or their splits do not have the same columns.
        BuildError: the place is taken.
        NoRoom: the disk is too full.
        CorruptStore: a store is damaged; names the place.
    """
    stores = [open_store(one) for one in places]
    check_alike(stores)
    plan = _plan(stores, options)
    output = claim_output(place, plan)
    if output.is_done:
        output.clear_staging()
        return BuildReport(output.target.url, load_manifest(output.target), False, 0)
    grid = stores[0].manifest.grid
    needed = sum(least_store(_images(s), grid, s.manifest.vocabulary.entropy) for s in stores)
    with room_for(output.target.url, needed, output.written):
        manifest = _merge(stores, plan, output, running)
    output.clear_staging()
    return BuildReport(output.target.url, manifest, is_new=True, tokenized=_count(manifest))


def check_alike(stores: Sequence[Store]) -> None:
    """Refuse stores whose tokens do not mean the same, or whose splits have other columns.

    Raises:
        UsageError: fewer than two stores, or one of them twice.
        Mismatch: names the difference and both values.
    """
    if len(stores) < 2:
        raise UsageError(f"a merge takes two stores or more, got {len(stores)}")
    first, seen = stores[0], {stores[0].fingerprint: stores[0].url}
    for other in stores[1:]:
        if other.fingerprint in seen:
            raise UsageError(
                f"'{other.url}' is the same store as '{seen[other.fingerprint]}'; name it once"
            )
        seen[other.fingerprint] = other.url
        for what, found, expected in zip(_WHAT, _identity(other), _identity(first), strict=True):
            if found != expected:
                raise Mismatch(
                    f"'{first.url}' and '{other.url}' cannot be merged: their {what} differs, "
                    f"{expected} and {found}. Only stores of one tokenizer, at one size, can."
                )
    for split in {name for store in stores for name in store}:
        _check_columns([store for store in stores if split in store], split)


_WHAT = ("tokenizer", "weights", "configuration", "preprocessing", "grid", "codebook dimension")


def _identity(store: Store) -> tuple[object, ...]:
    """What the stores of a merge must share, as `_WHAT` calls it."""
    manifest = store.manifest
    tokenizer = manifest.tokenizer
    return (
        tokenizer.name,
        tokenizer.weights,
        tokenizer.config,
        manifest.preprocess,
        list(manifest.grid),
        manifest.vocabulary.dimension,
    )


def _check_columns(stores: Sequence[Store], split: str) -> None:
    """Samples of one split have the same columns; an empty split goes along with any."""
    filled = [store for store in stores if len(store[split])]
    for other in filled[1:]:
        expected, found = filled[0][split].columns, other[split].columns
        if set(found) != set(expected):
            raise Mismatch(
                f"split '{split}' of '{filled[0].url}' has the columns {', '.join(expected)}, that "
                f"of '{other.url}' {', '.join(found)}. `tokenstore convert` leaves out keys "
                "(--no-keys) or takes some splits only (--split)."
            )


def _plan(stores: Sequence[Store], options: MergeOptions) -> WorkPlan:
    codec = options.codec or stores[0].manifest.table_sets[-1].codec
    registry.find("tokenstore.codecs", codec)
    fingerprints = [store.fingerprint for store in stores]
    listing = hashlib.sha256("\n".join(fingerprints).encode()).hexdigest()
    facts = {
        "plan": PLAN_FORMAT,
        "operation": "merge",
        "stores": fingerprints,
        "source": {"kind": "merge", "listing": listing},
        "codec": codec,
        "shard_size": options.shard_size,
        "versions": locked_versions(),
    }
    return WorkPlan(facts)


def _merge(stores: Sequence[Store], plan: WorkPlan, output: Output, running: Running) -> Manifest:
    classes = united_classes([store.manifest.classes for store in stores])
    splits = [
        _joined(split, [store for store in stores if split in store], classes)
        for split in dict.fromkeys(name for store in stores for name in store)
    ]
    total, stream = sum(map(len, splits)), running.stream
    with WorkProgress("comparing keys", total, stream=stream) as progress:
        splits, repeated = _without_repeated(splits, stores, progress)
    pieces = [piece for split in splits for piece in split.pieces]
    with WorkProgress("counting", sum(map(len, pieces)), stream=stream) as progress:
        counts = count_ranks(pieces, running.workers, progress.advance)
    vocabulary = _united(stores, splits, counts)
    splits = [_renamed(split, vocabulary) for split in splits]
    first = stores[0].manifest
    codec = fit_form(plan.facts["codec"], splits, CodecSpec(len(vocabulary), first.grid))
    form = Form(codec, write_tables(output.target, codec), plan.facts["shard_size"], first.block)
    with WorkProgress("merging", sum(map(len, splits)), stream=stream) as progress:
        entries = write_splits(output, splits, form, running.workers, progress.advance)
    carried = [r for s in stores for r in load_rejects(s.storage, s.manifest.rejects)]
    return publish(
        output.target,
        Manifest(
            tokenizer=first.tokenizer,
            preprocess=first.preprocess,
            grid=first.grid,
            vocabulary=write_vocabulary(output.target, vocabulary),
            table_sets=(form.tables,),
            block=first.block,
            splits=entries,
            classes=classes,
            source=SourceEntry(**plan.facts["source"]),
            order=OrderEntry(rule=ORDER, seed=None),
            rejects=write_rejects(output.target, [*carried, *repeated]),
            plan=plan.hash,
        ),
    )


def united_classes(lists: Sequence[tuple[str, ...] | None]) -> tuple[str, ...] | None:
    """`(a, b), (c, a) -> (a, b, c)`; None where no store has classes."""
    if all(names is None for names in lists):
        return None
    return tuple(dict.fromkeys(name for names in lists for name in names or ()))


def _joined(split: str, stores: Sequence[Store], classes: tuple[str, ...] | None) -> NewSplit:
    """A split of all stores that have it, its labels by the united classes."""
    place = {name: label for label, name in enumerate(classes or ())}
    pieces = []
    for store in stores:
        names = store.manifest.classes or ()
        labels = np.array([place[name] for name in names], np.int64)
        pieces.append(Piece(store, split, labels=labels))
    filled = [store for store in stores if len(store[split])] or [stores[0]]
    columns = columns_like(filled[0][split].columns, len(classes or ()))
    return NewSplit(split, tuple(pieces), columns)


def _without_repeated(
    splits: Sequence[NewSplit], stores: Sequence[Store], progress: WorkProgress
) -> tuple[list[NewSplit], list[Reject]]:
    """The splits without samples whose key occurred before, and these as rejects."""
    kept, rejects = [], []
    for split in splits:
        if all(column.name != "key" for column in split.columns):
            progress.say(f"{split.name} keeps no keys: images that occur twice are not found")
            kept.append(split)
            continue
        found = repeated_keys(split.pieces, progress.advance)
        rejects += [_reject(split, repeated, stores) for repeated in found]
        pieces = [
            _without(piece, [r.place for r in found if r.piece == number])
            for number, piece in enumerate(split.pieces)
        ]
        kept.append(replace(split, pieces=tuple(pieces)))
    for reject in rejects:
        progress.say(f"rejected {reject.split}/{reject.key}: {reject.reason}")
    return kept, rejects


def _reject(split: NewSplit, repeated: Repeated, stores: Sequence[Store]) -> Reject:
    earlier = split.pieces[repeated.earlier].store
    reason = (
        f"its key is already that of an image of store {stores.index(earlier) + 1} of "
        f"{len(stores)} ({earlier.fingerprint[:16]})"
    )
    return Reject(split.name, repeated.key, repeated.key, reason)


def _without(piece: Piece, places: Sequence[int]) -> Piece:
    if not places:
        return piece
    return replace(piece, numbers=np.delete(piece.numbers_of(0, len(piece)), places))


def _united(
    stores: Sequence[Store], splits: Sequence[NewSplit], counts: Sequence[NDArray[np.int64]]
) -> Vocabulary:
    """The ids that occur in any piece, as a store that was built of all images orders them."""
    size = max(int(store.vocabulary.ids.max()) for store in stores) + 1
    found, sums = iter(counts), {}
    for split in splits:
        sums[split.name] = np.zeros(size, np.int64)
        for piece in split.pieces:
            sums[split.name][piece.store.vocabulary.ids] += next(found)
    return Vocabulary.from_counts(sums, _codebook(stores, size))


def _codebook(stores: Sequence[Store], size: int) -> NDArray[np.float32] | None:
    """Rows of all ids of the stores, float32 [size, d] in the order of ids.

    Raises:
        Mismatch: two stores have other vectors for one id, whatever their manifests say.
    """
    dimension = stores[0].manifest.vocabulary.dimension
    if dimension is None:
        return None
    rows, known = np.zeros((size, dimension), np.float32), np.zeros(size, np.bool_)
    for store in stores:
        ids, own = store.vocabulary.ids, store.codebook
        both = known[ids]
        if own is None or not np.array_equal(rows[ids[both]], own[both]):
            raise Mismatch(
                f"'{store.url}' and '{stores[0].url}' have other codebook vectors for the same "
                "ids, so they are not of one tokenizer; verify both"
            )
        rows[ids], known[ids] = own, True
    return rows


def _renamed(split: NewSplit, vocabulary: Vocabulary) -> NewSplit:
    """The split with the new rank of every old one; 0 where an old one does not occur."""
    pieces = []
    for piece in split.pieces:
        ids = piece.store.vocabulary.ids
        occurs = np.isin(ids, vocabulary.ids)
        ranks = np.zeros(len(ids), np.uint16)
        ranks[occurs] = vocabulary.to_ranks(ids[occurs])
        pieces.append(replace(piece, ranks=ranks))
    return replace(split, pieces=tuple(pieces))


def _images(store: Store) -> int:
    return sum(map(len, store.splits.values()))


def _count(manifest: Manifest) -> int:
    return sum(split.count for split in manifest.splits.values())
