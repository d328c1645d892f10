"""How fast this machine reads a store and tokenizes images, and what a precision does to the ids.

Every rate stands beside one that it can be compared with: what the same machine does without the
work in question. Reading is the best of a few runs, what it can do when nothing else runs;
tokenizing runs once, since it is long. Whoever prints it is `cli/bench.py` or a benchmark.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tokenstore.build.decode import IMAGES_A_TASK, decoded_batches, decoding_by
from tokenstore.build.workers import DecodingPool
from tokenstore.checks import starts_of
from tokenstore.errors import ImageRejected, SourceError
from tokenstore.loader import TokenLoader
from tokenstore.reader import Split
from tokenstore.sources.base import Item, Source

if TYPE_CHECKING:
    from tokenstore.tokenizers.base import Precision, Tokenizer

OnBatch = Callable[[int], None]

BATCH = 256
SAMPLES = 8192  # of a large split: enough for a second of reading
SINGLES = 512
REPETITIONS = 3


@dataclass(frozen=True)
class Rate:
    """One measured rate: `ratio` is what it is of `other`, which is a rate too, or None."""

    name: str
    images_per_second: float
    ratio: float | None = None
    other: str | None = None


@dataclass(frozen=True)
class Tokenized:
    """Images from files to ids: int64 [n, *grid], and the seconds that it took."""

    ids: NDArray[np.int64]
    seconds: float

    @property
    def rate(self) -> float:
        """Images a second."""
        return len(self.ids) / self.seconds


@dataclass(frozen=True)
class PrecisionRate:
    """Tokenizing from files in one precision, against fp32: its speed, and the share of its ids."""

    precision: str
    images: int
    images_per_second: float
    ratio: float
    equal: float


def best_seconds(work: Callable[[], object]) -> float:
    """Shortest of a few runs, after one that warms up."""
    work()
    seconds = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def reading_rates(split: Split) -> Iterator[Rate]:
    """Reading up to `SAMPLES` images of a split: its bytes, its records, single ones, batches."""
    count = min(SAMPLES, len(split))
    rng = np.random.default_rng(0)
    some = rng.integers(len(split), size=count)
    batches = [some[start : start + BATCH] for start in range(0, count, BATCH)]
    ranks = split.read(np.arange(count)).ranks
    gathered = [batch % count for batch in batches]  # the same work, from memory

    shards = _shard_names(split, count)
    read = best_seconds(lambda: [split.store.storage.read(name) for name, _ in shards])
    in_files = Rate("shard files, front to back", sum(n for _, n in shards) / read)
    yield in_files
    decoding = _rate("decoding", count, _decoding(split, count), in_files)
    yield decoding
    memory = Rate("gathering batches in memory", count / best_seconds(_gather(ranks, gathered)))
    yield memory
    yield _rate("random batches", count, lambda: [split.read(b) for b in batches], memory)
    singles = some[:SINGLES].tolist()
    yield _rate("random single images", len(singles), lambda: [split[i] for i in singles], memory)
    yield _rate("loading", len(batches) * BATCH, _loading(split, len(batches)), decoding)


def _rate(name: str, images: int, work: Callable[[], object], other: Rate) -> Rate:
    rate = images / best_seconds(work)
    return Rate(name, rate, rate / other.images_per_second, other.name)


def _shard_names(split: Split, count: int) -> list[tuple[str, int]]:
    """File name and images of the first shards, as many as hold `count` images."""
    shards, held = [], 0
    for shard in split.entry.shards:
        if held < count:
            shards.append((shard.shard.name, shard.count))
            held += shard.count
    return shards


def _decoding(split: Split, count: int) -> Callable[[], object]:
    """The codec alone, on records that are in memory."""
    works = []
    for part in split.shards.find(np.arange(count)).parts:
        payloads, ends = part.shard.records("ranks", part.samples)
        out = np.empty((len(ends), *split.store.manifest.grid), np.uint16)
        codec = split.store.codec(part.shard.tables)
        works.append(partial(codec.decode, payloads.copy(), starts_of(ends), ends, out))
    return lambda: [work() for work in works]


def _gather(
    ranks: NDArray[np.uint16], batches: Sequence[NDArray[np.int64]]
) -> Callable[[], object]:
    return lambda: [ranks[batch] for batch in batches]


def _loading(split: Split, batches: int) -> Callable[[], object]:
    """Batches of the loader, which fills up the last one of an epoch; numpy, so it is streamed."""
    loader = TokenLoader(split, batch_size=BATCH, seed=0)

    def load() -> None:
        left = batches
        while left:
            taken = sum(1 for _ in itertools.islice(loader, left))
            left -= taken

    return load


@dataclass(frozen=True)
class ImageFiles:
    """Images of a source, who decodes them, and how many are tokenized together."""

    source: Source
    items: Sequence[Item]
    pool: DecodingPool
    batch_size: int

    def warm_up(self, tokenizer: "Tokenizer") -> None:
        """Start the workers and the tokenizer, so that a long build's rate is measured."""
        decode = decoding_by(self.source, tokenizer.preprocessing)
        some = self.items[: self.pool.workers * IMAGES_A_TASK]
        list(decoded_batches(some, self.batch_size, decode, self.pool))
        tokenizer.encode(np.zeros((1, *tokenizer.preprocessing.size, 3), np.uint8))

    def tokenize(
        self, tokenizer: "Tokenizer", on_batch: OnBatch = lambda images: None
    ) -> Tokenized:
        """From files to ids as a build does it; images that cannot be used are left out.

        Raises:
            SourceError: none of them can be used.
        """
        decode = decoding_by(self.source, tokenizer.preprocessing)

        def pictures() -> Iterator[NDArray[np.uint8]]:
            for items, decoded in decoded_batches(self.items, self.batch_size, decode, self.pool):
                usable = [one[0].pixels for one in decoded if not isinstance(one, ImageRejected)]
                if usable:
                    yield np.stack(usable)
                on_batch(len(items))

        started = time.perf_counter()
        ids = [found.numpy() for found in tokenizer.encode_each(pictures())]
        seconds = time.perf_counter() - started
        if not ids:
            raise SourceError(
                f"none of {len(self.items)} images could be decoded; give a folder of images that "
                "can be"
            )
        return Tokenized(np.concatenate(ids), seconds)


def precisions_on(device: str) -> tuple["Precision", ...]:
    """What a torch device can compute in, fp32 first."""
    return ("fp32", "tf32", "bf16") if device.startswith("cuda") else ("fp32", "bf16")


def precision_rates(
    load: Callable[["Precision"], "Tokenizer"],
    precisions: Sequence["Precision"],
    files: ImageFiles,
    on_batch: OnBatch = lambda images: None,
) -> Iterator[PrecisionRate]:
    """Tokenize the same files in fp32 and in each other precision.

    Raises:
        TokenizerError: a precision that the device does not have.
        SourceError: none of the files can be used.
    """
    exact: Tokenized | None = None
    others: list[Precision] = [asked for asked in precisions if asked != "fp32"]
    first: Precision = "fp32"
    for precision in (first, *others):
        tokenizer = load(precision)
        files.warm_up(tokenizer)
        found = files.tokenize(tokenizer, on_batch)
        exact = exact or found
        ratio, equal = found.rate / exact.rate, float((found.ids == exact.ids).mean())
        yield PrecisionRate(precision, len(found.ids), found.rate, ratio, equal)
