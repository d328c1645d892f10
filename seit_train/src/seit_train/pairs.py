"""Pairs: a store of images above the same images after a warp, for TokenAdapt to learn from.

Every image becomes several samples, one of each kind of warp and more of the mixed kind. A sample's
grid is [2h,w]: the ids of the picture over those of the warped picture, both as the tokenizer gave
them. Its label is the kind; the warp itself follows from sample number and kind and is stored
nowhere. The store is made once and read like any other; training from it is the task's business.
"""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from seit_train.augment.geometry import KINDS, pair_warps, warp_pictures
from tokenstore.codecs.base import CodecSpec
from tokenstore.entries import OrderEntry, SourceEntry, SplitEntry, TokenizerEntry
from tokenstore.errors import BuildError, ImageRejected
from tokenstore.manifest import Manifest, columns_for, publish
from tokenstore.progress import WorkProgress
from tokenstore.reader import Store, open_store
from tokenstore.registry import find
from tokenstore.sources import open_source
from tokenstore.sources.base import Item, Listing, Source
from tokenstore.storage import Storage, open_storage
from tokenstore.tokenizers.base import Tokenizer
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

VIEWS = 8  # pairs of an image: one of each kind, and one more of the mixed kind
_IMAGES_AT_ONCE = 8
_HELD_OUT = 10  # without a val split, every tenth image judges


@dataclass(frozen=True)
class PairRequest:
    """What to make pairs of.

    Attributes:
        images: the corpus, as `tokenstore build` takes it.
        views: pairs of each image to train on; of one to judge by, there is one of each kind.
        limit: images at most, over both splits; None means all.
    """

    images: str
    views: int = VIEWS
    limit: int | None = None


def pair_store(request: PairRequest, tokenizer: Tokenizer, place: Path) -> Store:
    """The store of pairs at `place`; it is made where it is not there yet.

    Raises:
        BuildError: `place` holds something else, or no image can be used.
    """
    source = open_source(request.images)
    listing = source.listing()
    identity = f"{listing.sha256()} {request.views} {request.limit} {tokenizer.preprocessing}"
    entry = SourceEntry(kind="pairs", listing=hashlib.sha256(identity.encode()).hexdigest())
    if place.exists():
        store = open_store(place)
        made_by = store.manifest.tokenizer
        if (store.manifest.source, made_by.name, made_by.weights) != (
            *(entry, tokenizer.name, tokenizer.weights_sha256),
        ):
            raise BuildError(
                f"'{place}' holds other pairs than those asked for. Give another --pairs, or "
                "remove it."
            )
        return store
    staging = place.with_name(f"{place.name}.building")
    shutil.rmtree(staging, ignore_errors=True)
    _make(source, _splits(listing, request.limit), request.views, tokenizer, (staging, entry))
    staging.rename(place)
    return open_store(place)


def keep_pictures(request: PairRequest, tokenizer: Tokenizer, file: Path) -> None:
    """Write the pictures of the pairs of train as uint8 [n,H,W,3], for pairs that are made anew.

    Args:
        request: that of the store of pairs.
        tokenizer: the one that made it.
        file: an .npy file; one that is there is left as it is.
    """
    if file.exists():
        return
    source = open_source(request.images)
    items = _splits(source.listing(), request.limit)["train"]
    building = file.with_name(f".{file.name}.building")
    shape = (len(items), *tokenizer.preprocessing.size, 3)
    kept = np.lib.format.open_memmap(building, "w+", np.uint8, shape)
    with WorkProgress("keeping pictures", len(items), "images") as progress:
        first = 0  # rejects are left out, as in the store; their rows at the end stay empty
        for pictures in _pictures(source, "train", items, tokenizer, [], progress):
            kept[first : first + len(pictures)] = pictures
            first += len(pictures)
    kept.flush()
    building.replace(file)


def _splits(listing: Listing, limit: int | None) -> dict[str, list[Item]]:
    """Train and val; without a val split every tenth image is held out."""
    named = {name: list(items) for name, items in listing.splits.items() if items}
    if "train" in named and "val" in named:
        splits = {name: named[name] for name in ("train", "val")}
    else:
        items = [item for some in named.values() for item in some]
        if limit is not None:
            items = items[:: max(1, len(items) // limit)]
        chosen = np.arange(len(items)) % _HELD_OUT == _HELD_OUT - 1
        splits = {
            name: [item for item, is_val in zip(items, chosen, strict=True) if is_val == want]
            for name, want in (("train", False), ("val", True))
        }
    total = sum(map(len, splits.values()))
    if limit is None or limit >= total:
        return splits
    shares = {name: max(1, limit * len(items) // total) for name, items in splits.items() if items}
    # Evenly over a split, so that every class folder is seen.
    return {
        name: [splits[name][i] for i in np.linspace(0, len(splits[name]) - 1, n).astype(int)]
        for name, n in shares.items()
    }


def _make(
    source: Source,
    splits: dict[str, list[Item]],
    views: int,
    tokenizer: Tokenizer,
    target: tuple[Path, SourceEntry],
) -> None:
    rejects: list[Reject] = []
    ids, kinds = {}, {}
    with WorkProgress("making pairs", sum(map(len, splits.values())), "images") as progress:
        for split, items in splits.items():
            pictures = _pictures(source, split, items, tokenizer, rejects, progress)
            # One pair of each kind judges as well as more, in less time.
            pairs = views if split == "train" else len(KINDS)
            parts = list(_tokenized(pictures, pairs, tokenizer))
            if parts:
                ids[split] = np.concatenate([part[0] for part in parts])
                kinds[split] = np.concatenate([part[1] for part in parts])
    if "train" not in ids:
        raise BuildError("no image could be used, so there are no pairs. Give images.")
    codes = len(tokenizer.codebook)
    counts = {name: np.bincount(some.ravel(), minlength=codes) for name, some in ids.items()}
    vocabulary = Vocabulary.from_counts(counts, tokenizer.codebook)
    samples = {name: Samples(vocabulary.to_ranks(some), kinds[name]) for name, some in ids.items()}
    _write(samples, vocabulary, rejects, tokenizer, target)


def _pictures(
    source: Source,
    split: str,
    items: list[Item],
    tokenizer: Tokenizer,
    rejects: list[Reject],
    progress: WorkProgress,
) -> Iterator[NDArray[np.uint8]]:
    """Batches of pictures as the tokenizer sees them; what cannot be used is listed."""
    batch: list[NDArray[np.uint8]] = []
    for item in items:
        try:
            batch.append(tokenizer.preprocess(source.load(item)))
        except ImageRejected as reason:
            rejects.append(Reject(split, item.key, item.path, str(reason)))
            progress.say(f"not used: {item.path}: {reason}")
        progress.advance()
        if len(batch) == _IMAGES_AT_ONCE:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def _tokenized(
    batches: Iterator[NDArray[np.uint8]], views: int, tokenizer: Tokenizer
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Ids int64 [n,2h,w] of pairs, and their kinds int64 [n], the views of an image in a row."""
    first = 0
    for pictures in batches:
        view = torch.arange(views).repeat(len(pictures))
        kinds = view.clamp(max=len(KINDS) - 1)
        index = first + torch.arange(len(kinds))
        first += len(kinds)
        before = tokenizer.encode(pictures).repeat_interleave(views, dim=0)
        size = pictures.shape[1], pictures.shape[2]
        repeated = torch.from_numpy(pictures).repeat_interleave(views, dim=0)
        warped = warp_pictures(repeated, pair_warps(index, kinds, size), size)
        after = torch.cat([tokenizer.encode(part) for part in warped.split(_IMAGES_AT_ONCE)])
        yield torch.cat([before, after], dim=1).numpy(), kinds.numpy()


def _write(
    samples: dict[str, Samples],
    vocabulary: Vocabulary,
    rejects: list[Reject],
    tokenizer: Tokenizer,
    target: tuple[Path, SourceEntry],
) -> None:
    storage: Storage = open_storage(target[0])
    grid = samples["train"].ranks.shape[1:]
    codec = find("tokenstore.codecs", "zstd").fit(
        samples["train"].ranks[:8192], CodecSpec(len(vocabulary), grid)
    )
    tables, columns = write_tables(storage, codec), columns_for(len(KINDS), keys=False)
    splits = {}
    for name, some in samples.items():
        plan = ShardPlan(name, 0, 0, columns, 0, tables, codec)
        shard = write_shard(storage, plan, [some])
        splits[name] = SplitEntry(count=len(some), source_bytes=0, columns=columns, shards=(shard,))
    manifest = Manifest(
        tokenizer=TokenizerEntry(
            name=tokenizer.name, config=tokenizer.describe(), weights=tokenizer.weights_sha256
        ),
        preprocess=tokenizer.preprocessing.as_json(),
        grid=grid,
        vocabulary=write_vocabulary(storage, vocabulary),
        table_sets=(tables,),
        splits=splits,
        classes=KINDS,
        source=target[1],
        order=OrderEntry(rule="input", seed=None),
        rejects=write_rejects(storage, rejects),
    )
    publish(storage, manifest)
