"""The images of a split: tar framing, block hashes, every record, label and key."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from tokenstore.checks import starts_of
from tokenstore.columns import mask_of
from tokenstore.errors import CodecError, CorruptStore, TokenstoreError
from tokenstore.index import BlockBytes
from tokenstore.reader import Split
from tokenstore.shard import END, TAR_BLOCK, ShardReader, member_header
from tokenstore.verify.findings import Findings

Samples = NDArray[np.int64]


class SplitCheck:
    """Checks one split; afterwards `counts` says how often each rank occurs, int64 [K]."""

    def __init__(self, split: Split, findings: Findings, chosen: Samples | None) -> None:
        """`chosen`: look at these samples of the split only, sorted; None means all."""
        self.todo = len(split) if chosen is None else len(chosen)
        self.counts = np.zeros(split.store.manifest.vocabulary.size, np.int64)
        self._split = split
        self._findings = findings
        self._chosen = chosen

    def run(self) -> Iterator[int]:
        """Check block by block; yields how many images were checked."""
        first = 0
        for number, entry in enumerate(self._split.entry.shards):
            samples = self._samples(first, entry.count)
            first += entry.count
            name = f"{self._split.name}-{number:06d}"
            found = (entry.shard.name, entry.index.name)
            if found != (f"{name}.tar", f"{name}.index"):
                self._findings.add(entry.shard.name, "name", f"{name}.tar and .index", found)
            if not len(samples):
                continue
            try:
                shard = self._split.shards.open(number)
            except TokenstoreError as error:
                self._findings.error(entry.shard.name, error)
                continue
            if self._chosen is None:
                self._framing(shard)
            blocks = samples // shard.index.block_size
            for some in np.split(samples, np.flatnonzero(np.diff(blocks)) + 1):
                self._values(shard, some)
                self._grids(shard, some)
                yield len(some)
        if self._chosen is None:
            self._unique_keys()

    def _samples(self, first: int, count: int) -> Samples:
        """Numbers within a shard of what to look at in it."""
        if self._chosen is None:
            return np.arange(count)
        places = np.searchsorted(self._chosen, [first, first + count])
        chosen: Samples = self._chosen[slice(*places)] - first
        return chosen

    def _framing(self, shard: ShardReader) -> None:
        """Tar headers, block hashes and padding from the first byte to the last."""
        position: int | None = 0
        for block in range(shard.index.blocks):
            for column in self._split.columns:
                try:
                    part = shard.index.block(column, block)
                except CorruptStore:  # reported with the values of the block
                    position = None
                    continue
                self._member(shard, f"{block:06d}.{column}", part, position)
                position = part.base + part.size + -part.size % TAR_BLOCK
        if position is not None and shard.bytes_at(position, position + len(END) + 1) != END:
            self._findings.add(shard.name, "end of the tar", "1,024 zeros and no more", "others")

    def _member(
        self, shard: ShardReader, name: str, part: BlockBytes, position: int | None
    ) -> None:
        """One member of the tar, that must begin at byte `position` where that is known."""
        place = f"{shard.name}: {name}"
        if position is not None and part.base != position + TAR_BLOCK:
            self._findings.add(place, "offset", position + TAR_BLOCK, part.base)
        if shard.bytes_at(part.base - TAR_BLOCK, part.base) != member_header(name, part.size):
            self._findings.add(place, "tar header", f"{name} of {part.size} bytes", "another")
        content = shard.bytes_at(part.base, part.base + part.size + -part.size % TAR_BLOCK)
        digest = xxhash.xxh3_64_intdigest(content[: part.size])
        if digest != part.hash:
            self._findings.add(place, "xxh3-64", f"{part.hash:016x}", f"{digest:016x}")
        if content[part.size :].strip(b"\0"):
            self._findings.add(place, "padding", "zeros", "other bytes")

    def _values(self, shard: ShardReader, samples: Samples) -> None:
        """Labels, views, keys, metadata and masks of samples of one block."""
        place = f"{shard.name}: block {int(samples[0]) // shard.index.block_size}"
        checks: dict[str, Callable[[], Any]] = {
            "label": lambda: self._labels(shard.fixed("label", samples), place),
            "view": lambda: shard.fixed("view", samples),
            "key": lambda: shard.strings("key", samples),
            "meta": lambda: [json.loads(line) for line in shard.strings("meta", samples)],
            "mask": lambda: self._masks(shard, samples),
        }
        for column in self._split.columns[1:]:
            try:
                checks[column]()
            except (TokenstoreError, ValueError) as error:
                self._findings.error(f"{place}: {column}", error)

    def _labels(self, labels: Samples, place: str) -> None:
        classes = len(self._split.classes or ())
        for wrong in np.unique(labels[labels >= classes]).tolist():
            self._findings.add(place, "label", f"a number below {classes}", wrong)

    def _masks(self, shard: ShardReader, samples: Samples) -> None:
        payloads, ends, wrong = shard.gather("mask", samples)
        parts = np.split(payloads, ends[:-1])
        for sample, payload, bad in zip(samples.tolist(), parts, wrong.tolist(), strict=True):
            if bad:
                self._bad_record(shard, sample, "mask")
                continue
            place = f"{shard.name}: sample {shard.first + sample}"
            try:
                mask = mask_of(payload.tobytes(), place)
            except CorruptStore as error:
                self._findings.error(place, error)
                continue
            self._mask_values(mask, place)

    def _mask_values(self, mask: NDArray[np.uint8], place: str) -> None:
        """Every pixel is of a class, or of none as the manifest says it."""
        manifest = self._split.store.manifest
        if manifest.classes is None:
            return
        found = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
        known = (found < len(manifest.classes)) | (found == manifest.ignore_index)
        for value in found[~known].tolist():
            expected = f"a class below {len(manifest.classes)} or {manifest.ignore_index}"
            self._findings.add(place, "mask", expected, value)

    def _grids(self, shard: ShardReader, samples: Samples) -> None:
        """Compare records with their checks, decode them and count their ranks."""
        try:
            codec = self._split.store.codec(shard.tables)
            payloads, ends, wrong = shard.gather("ranks", samples)
        except TokenstoreError as error:
            self._findings.error(f"{shard.name}: ranks of sample {shard.first + samples[0]}", error)
            return
        for sample in samples[wrong].tolist():
            self._bad_record(shard, sample, "ranks")
        starts, good = starts_of(ends), np.flatnonzero(~wrong)
        grids = np.empty((len(good), *self._split.store.manifest.grid), np.uint16)
        try:
            codec.decode(payloads, starts[good], ends[good], grids)
        except CodecError:
            for sample, start, end in zip(samples[good], starts[good], ends[good], strict=True):
                self._grid(shard, int(sample), payloads[start:end])
        else:
            self.counts += np.bincount(grids.ravel(), minlength=len(self.counts))

    def _grid(self, shard: ShardReader, sample: int, payload: NDArray[np.uint8]) -> None:
        """One image of a block that does not decode as a whole."""
        grid = np.empty((1, *self._split.store.manifest.grid), np.uint16)
        ends = np.array([len(payload)], np.int64)
        try:
            self._split.store.codec(shard.tables).decode(payload, np.zeros(1, np.int64), ends, grid)
        except CodecError as error:
            self._findings.error(f"{shard.name}: sample {shard.first + sample}", error)

    def _unique_keys(self) -> None:
        """No key twice; compared by hash, so that many millions fit in memory."""
        if "key" not in self._split.columns:
            return
        hashes = np.zeros(len(self._split), np.uint64)
        for start in range(0, len(hashes), 1 << 16):
            some = np.arange(start, min(start + (1 << 16), len(hashes)))
            try:
                keys = self._named(some)
            except TokenstoreError:
                return  # reported with its block
            hashes[some] = [xxhash.xxh3_64_intdigest(key.encode()) for key in keys]
        order = np.argsort(hashes, kind="stable")
        alike = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
        for pair in (order[i : i + 2] for i in alike):
            first, second = self._named(pair)
            if first == second:
                place = f"split '{self._split.name}': samples {int(pair[0])} and {int(pair[1])}"
                self._findings.add(place, "key", "two keys", f"'{first}' twice")

    def _named(self, samples: Samples) -> list[str]:
        """Keys, with the number of the view where there are several of an image."""
        keys, views = self._split.keys(samples) or [], self._split.views(samples)
        if views is None:
            return keys
        return [f"{key}, view {view}" for key, view in zip(keys, views, strict=True)]

    def _bad_record(self, shard: ShardReader, sample: int, column: str) -> None:
        place = f"{shard.name}: sample {shard.first + sample}"
        self._findings.add(place, f"check of '{column}'", "the CRC of the record", "another")
