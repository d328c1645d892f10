"""The report of a store: what it is, what it costs and what it looks like, on one HTML page.

    sampling.py  a sample of one split          forms.py    Table 1 of SeiT, measured on it
    codes.py     how popular the codes are      gallery.py  originals, tokens, reconstructions
    rejects.py   what was refused, and why      charts.py   geometry of the drawings
    decoding.py  the tokenizer, or why not
    page.py      the page itself, from page.html.jinja; templates.py what other pages share with it

`report_on` measures, `page.render` writes. Every number comes from the store; nothing here checks
that the store is sound beyond what reading it checks: that is for `verify`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokenstore.errors import TokenstoreError
from tokenstore.reader import Store, open_store
from tokenstore.report import gallery
from tokenstore.report.codes import Popularity, distinct_codes, popularity
from tokenstore.report.decoding import NO_PICTURES, load_decoder, problem_of
from tokenstore.report.forms import Forms, codec_names, measure_forms
from tokenstore.report.rejects import Rejects, read_rejects
from tokenstore.report.sampling import Sampled, chosen_split, chunks, draw, record_sizes
from tokenstore.sizes import StoreSizes, measure

SAMPLE = 4096
PICTURES = gallery.PICTURES + gallery.SWATCHES
MOST_LABELS = 1 << 21  # of a larger split the labels of the sample are counted

Reach = Callable[[int, int], None]


@dataclass(frozen=True)
class ReportOptions:
    """What to report on: a split, originals, images of the sample, and where the weights are."""

    split: str | None = None
    images: str | None = None
    sample: int = SAMPLE
    weights: str | None = None
    config: str | None = None


@dataclass(frozen=True)
class Pictures:
    """Pictures by class, and single codes.

    `problem` is why there are no reconstructions, in words that are the same on every machine, and
    `detail` what was said here; `same_listing` is whether the folder of originals lists what the
    store was built from. Each is None where there is nothing to say.
    """

    groups: tuple[tuple[str | None, tuple[gallery.Shown, ...]], ...] = ()
    swatches: tuple[gallery.Swatch, ...] = ()
    problem: str | None = None
    detail: str | None = None
    same_listing: bool | None = None

    @property
    def psnr(self) -> list[float]:
        """Of every pair, in dB."""
        return [one.psnr for _, some in self.groups for one in some if one.psnr is not None]


@dataclass(frozen=True)
class ClassCounts:
    """Images of each class, int64 [classes]; `counted` of the split's images."""

    images: NDArray[np.int64]
    counted: int


@dataclass(frozen=True)
class Report:
    """All that a page tells. `forms` is None where the split holds no image."""

    store: Store
    sizes: StoreSizes
    popularity: Popularity
    rejects: Rejects
    sampled: Sampled
    record_sizes: NDArray[np.int64]
    distinct: float
    classes: ClassCounts | None
    forms: Forms | None
    pictures: Pictures


class _Steps:
    """Counts what is done of a report."""

    def __init__(self, total: int, reach: Reach) -> None:
        self.done, self.total, self._reach = 0, total, reach

    def __call__(self) -> None:
        self.done += 1
        self._reach(self.done, max(self.total, self.done))


def report_on(
    place: str, options: ReportOptions, reach: Reach = lambda done, total: None
) -> Report:
    """Measure a store.

    Args:
        place: folder or URL of the store.
        options: what to report on.
        reach: called with steps done and steps in all.

    Raises:
        NotAStore: there is no store.
        CorruptStore: bytes differ from what the store promises.
        Mismatch: none of the split's keys is among the images.
        TokenizerError: the weights that were given are not those of the store.
    """
    store = open_store(place)
    split = chosen_split(store, options.split)
    codecs = len(codec_names()) if len(split) else 0
    step = _Steps(chunks(split, options.sample) + codecs + PICTURES, reach)
    sampled = draw(split, options.sample, step)
    return Report(
        store=store,
        sizes=measure(store.storage, store.manifest),
        popularity=popularity(store.vocabulary),
        rejects=read_rejects(store.storage, store.manifest.rejects),
        sampled=sampled,
        record_sizes=record_sizes(sampled),
        distinct=distinct_codes(sampled.ranks),
        classes=_class_counts(sampled),
        pictures=_pictures(sampled, options, step),
        forms=measure_forms(sampled, step) if len(split) else None,
    )


def _class_counts(sampled: Sampled) -> ClassCounts | None:
    split = sampled.split
    if split.classes is None:
        return None
    labels = split.labels if len(split) <= MOST_LABELS else sampled.labels
    if labels is None:
        return None
    return ClassCounts(np.bincount(labels, minlength=len(split.classes)), len(labels))


def _pictures(sampled: Sampled, options: ReportOptions, step: Callable[[], None]) -> Pictures:
    chosen = gallery.choose(sampled)
    rows = [row for _, some in chosen for row in some]
    originals = None
    if options.images is not None and rows:
        numbers = sampled.numbers[rows].tolist()
        originals = gallery.find_originals(sampled.split, options.images, numbers)
    store = sampled.split.store
    error: TokenstoreError | None = None
    try:
        tokenizer = load_decoder(store, options.weights, options.config)
        shown = gallery.show(sampled, rows, tokenizer, originals, step)
        swatches = gallery.swatches(store, tokenizer, step)
    except NO_PICTURES as found:
        if options.weights is not None or options.config is not None:
            raise  # what was asked for must serve
        error, swatches = found, ()
        shown = gallery.show(sampled, rows, None, originals, step)
    taken = iter(shown)
    return Pictures(
        groups=tuple((name, tuple(next(taken) for _ in some)) for name, some in chosen),
        swatches=swatches,
        problem=None if error is None else problem_of(store, error),
        detail=None if error is None else str(error),
        same_listing=originals.same_listing if originals else None,
    )
