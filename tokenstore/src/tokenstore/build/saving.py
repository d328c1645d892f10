"""What the codec `context` would save of a store: measured on a sample, in seconds.

Tables are fitted on most of the sample and judged on the rest, so the estimate is of images that
the tables have not seen; a conversion fits them on more, and saves a little more. Nothing is
written. The build's summary prints it.
"""

import shlex
from dataclasses import dataclass
from math import prod

import numpy as np

from tokenstore import registry
from tokenstore.checks import BYTES as CHECK
from tokenstore.codecs.base import Codec, CodecSpec, Ranks
from tokenstore.reader import Store
from tokenstore.sizes import StoreSizes

CODEC = "context"
FEWEST_IMAGES = 256  # below, a store is small whatever its codec
MOST_IMAGES = 1152
MOST_TOKENS = 1 << 20  # a second or two of work, whatever the grid
RUNS = 32  # of neighbours, so that a remote store is asked for few ranges
WORTH_IT = 0.005
JUDGED = 9  # every ninth image of the sample


@dataclass(frozen=True)
class Saving:
    """Bytes an image that the codec saves, its tables included; below zero if it costs more.

    `share` is of what records and tables take now.
    """

    bytes_an_image: float
    share: float
    command: str

    @property
    def sentence(self) -> str:
        """What a person is told."""
        if self.share < WORTH_IT:
            return f"codec {CODEC} would save next to nothing here"
        return (
            f"codec {CODEC} would save {self.bytes_an_image:,.1f} bytes an image, "
            f"{self.share:.1%} of records and tables:  {self.command}"
        )


def context_saving(store: Store, sizes: StoreSizes) -> Saving | None:
    """Measure; None where it would say nothing: few images, or the codec is in use already."""
    images = sum(split.images for split in sizes.splits.values())
    codecs = {tables.codec for tables in store.manifest.table_sets}
    if images < FEWEST_IMAGES or codecs == {CODEC}:
        return None
    sample = _sample(store)
    judged = np.arange(len(sample)) % JUDGED == 0
    spec = CodecSpec(store.manifest.vocabulary.size, store.manifest.grid)
    found: Codec = registry.find("tokenstore.codecs", CODEC).fit(sample[~judged], spec, images)
    payload = len(found.encode(sample[judged]).data) / int(judged.sum())
    tables = sum(table.nbytes for table in found.tables().values())
    now = sum(split.records for split in sizes.splits.values()) + sizes.tables
    saved = now - images * (payload + CHECK) - tables
    target = f"{store.url.removesuffix('.tokenstore')}-{CODEC}.tokenstore"
    words = ["tokenstore", "convert", store.url, "-o", target, "--codec", CODEC]
    return Saving(saved / images, saved / now, shlex.join(words))


def _sample(store: Store) -> Ranks:
    """Runs of neighbours, spread evenly over the largest split."""
    split = max(store.values(), key=len)
    most = max(RUNS, min(MOST_IMAGES, MOST_TOKENS // prod(store.manifest.grid)))
    if len(split) <= most:
        return split.read(np.arange(len(split))).ranks
    length = most // RUNS
    starts = np.linspace(0, len(split) - length, RUNS).astype(np.int64)
    return split.read((starts[:, None] + np.arange(length)).ravel()).ranks
