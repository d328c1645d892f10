"""From a report to one HTML page that needs nothing else: no network, no scripts, no other file.

The template is `page.html.jinja`; it escapes every text, so names from a store are only ever text.
The same report gives the same bytes: there is no date, host or path in it. What is measured, and
how, is decided elsewhere.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokenstore.errors import UsageError
from tokenstore.preprocess import Preprocess
from tokenstore.report import Report
from tokenstore.report.charts import Square, histogram, log_log, to_scale
from tokenstore.report.forms import Form, Forms
from tokenstore.report.templates import compact, environment
from tokenstore.sizes import StoreSizes

MOST_CLASSES = 40
MOST_FILES = 60
FEW = 50  # measured images, from which no advice is drawn
PARTS = (
    ("records", "Tokens: the records, with a check of 2 bytes each"),
    ("keys", "Keys: the names of the images"),
    ("framing", "Labels and tar framing"),
    ("index", "Index: where each record starts"),
    ("masks", "Masks"),
    ("extras", "Metadata, views"),
)


def render(report: Report, name: str) -> str:
    """The page about a store that is called `name`."""
    template = environment(Path(__file__).parent).get_template("page.html.jinja")
    return template.render(
        name=name,
        report=report,
        store=report.store,
        manifest=report.store.manifest,
        split=report.sampled.split,
        total=_totals(report.sizes),
        parts=_parts(report.sizes),
        squares=_squares(report.forms),
        bars=_bars(report.forms),
        saving=_saving(report.forms),
        quoted=shlex.quote(name),
        pixels=_pixels(report.store.manifest.preprocess),
        popularity_chart=log_log(report.popularity.curve),
        record_chart=histogram(report.record_sizes),
        median_record=int(np.median(report.record_sizes)) if len(report.record_sizes) else 0,
        classes=_classes(report),
        files=report.store.manifest.files(),
        most_files=MOST_FILES,
        snippet=snippet(report, name),
    )


def facts(report: Report, name: str) -> dict[str, Any]:
    """What the page measured, as JSON; sizes are bytes an image."""
    forms = report.forms
    return {
        "store": name,
        "fingerprint": report.store.fingerprint,
        "split": report.sampled.split.name,
        "sampled": len(report.sampled.numbers),
        "fitted": forms.fitted if forms else 0,
        "measured": forms.measured if forms else 0,
        "entropy_bytes_an_image": forms.entropy if forms else None,
        "forms": [{**asdict(form), "size": form.size} for form in forms.forms] if forms else [],
        "popularity": {
            field: value for field, value in asdict(report.popularity).items() if field != "curve"
        },
        "distinct_codes_an_image": report.distinct,
        "rejects": asdict(report.rejects),
        "psnr": report.pictures.psnr,
        "problem": report.pictures.problem,
    }


def snippet(report: Report, name: str) -> str:
    """A few lines of Python that read this very store."""
    split = report.sampled.split
    grid = ", ".join(map(str, report.store.manifest.grid))
    lines = ["import tokenstore", "", f"store = tokenstore.open({name!r})"]
    lines += [f"split = store[{split.name!r}]  # {len(split):,} images"]
    if len(split):
        some = [0, len(split) // 2, len(split) - 1]
        keys = ", keys=True" if "key" in split.columns else ""
        masks = ", masks=True" if "mask" in split.columns else ""
        lines += [f"batch = split.read({some}{keys}{masks})  # in any order, any number at once"]
        lines += [f"batch.ranks  # uint16 [3, {grid}]: tokens, renamed by popularity"]
        lines += ["batch.labels  # int64 [3]; names in split.classes"] * bool(split.classes)
        lines += ["batch.keys  # the names of the three images"] * bool(keys)
        lines += ["batch.masks  # uint8 [3, H, W]; store.manifest.classes by value"] * bool(masks)
        lines += ["store.ids(batch.ranks)  # rows of the tokenizer's own codebook"]
    if report.store.codebook is not None:
        lines += [f"store.codebook  # float32 {list(report.store.codebook.shape)}, by rank"]
    if len(split) and report.pictures.problem is None:
        lines += ["store.decode(batch.ranks)  # pictures, uint8; needs tokenstore[build]"]
    return "\n".join(lines)


@dataclass(frozen=True)
class _Totals:
    """All splits together, in bytes; shared files (vocabulary, tables) apart."""

    images: int
    store: int
    source: int
    shared: int

    @property
    def an_image(self) -> float:
        """Bytes an image, as `tokenstore info` counts them: without what images share."""
        return self.store / self.images if self.images else 0.0

    @property
    def of_source(self) -> float | None:
        """What the store is of the image files; None where those are not known."""
        return (self.store + self.shared) / self.source if self.source else None


def _totals(sizes: StoreSizes) -> _Totals:
    splits = sizes.splits.values()
    return _Totals(
        images=sum(split.images for split in splits),
        store=sum(split.total for split in splits),
        # Of a store that knows some sources only, nothing can be said of the whole.
        source=sum(split.source for split in splits)
        if all(split.source or not split.images for split in splits)
        else 0,
        shared=sizes.vocabulary + sizes.tables,
    )


def _parts(sizes: StoreSizes) -> list[tuple[str, str, int]]:
    """(part, what it is, bytes) of all splits, then of what they share; none of 0 bytes."""
    splits = sizes.splits.values()
    parts = [(part, what, sum(getattr(s, part) for s in splits)) for part, what in PARTS]
    parts.append(("vocabulary", "Vocabulary and codebook, once a store", sizes.vocabulary))
    parts.append(("tables", "Tables of the codec, once a store", sizes.tables))
    return [part for part in parts if part[2]]


def _squares(forms: Forms | None) -> tuple[Square, ...]:
    """Pixels, image files and this store's tokens, to scale; none where too little is known."""
    if forms is None:
        return ()
    stored = [form for form in forms.of_kind("codec") if form.stored and form.size]
    some = [*forms.of_kind("pixels", "files"), *stored[:1]]
    sizes = [(form.name, form.size) for form in some if form.size]
    return to_scale([*sizes[:-1], ("tokens here", sizes[-1][1])]) if stored and sizes[1:] else ()


def _bars(forms: Forms | None) -> list[tuple[Form, float]]:
    """The forms of tokens with their lengths against the longest, 0 to 1."""
    if forms is None:
        return []
    sized = [form for form in forms.of_kind("plain", "codec", "bound") if form.size is not None]
    longest = max((form.size or 0.0 for form in sized), default=0.0)
    return [(form, (form.size or 0.0) / (longest or 1.0)) for form in sized]


@dataclass(frozen=True)
class _Saving:
    """A smaller codec, the one that the store has now, and the share that would be saved."""

    best: Form
    now: Form
    share: float


def _saving(forms: Forms | None) -> _Saving | None:
    """What the smallest codec would save, if that is a hundredth at least and well measured."""
    if forms is None or forms.measured < FEW:
        return None
    codecs = [form for form in forms.of_kind("codec") if form.size]
    stored = [form for form in codecs if form.stored]
    if not stored:
        return None
    now, best = (min(some, key=lambda form: form.size or 0.0) for some in (stored, codecs))
    saved = 1 - (best.size or 0.0) / (now.size or 1.0)
    return _Saving(best, now, saved) if saved >= 0.01 else None


def _pixels(preprocess: Mapping[str, Any]) -> str:
    """`256x256 (center-crop)`, or the settings as they are where they are of another kind."""
    try:
        rule = Preprocess.from_json({**preprocess})
    except UsageError:
        return compact(preprocess) if preprocess else "not known"
    return f"{rule.size[0]}x{rule.size[1]} ({rule.rule})"


@dataclass(frozen=True)
class _Classes:
    """The largest classes as (name, images, share of the largest), and the others summed up."""

    shown: Sequence[tuple[str, int, float]]
    others: int
    fewest: int
    most: int


def _classes(report: Report) -> _Classes | None:
    names = report.sampled.split.classes
    if report.classes is None or names is None or not len(names):
        return None
    counts = report.classes.images
    most = int(counts.max())
    order = np.argsort(-counts, kind="stable")[:MOST_CLASSES].tolist()
    shown = [(names[i], int(counts[i]), int(counts[i]) / (most or 1)) for i in order]
    return _Classes(shown, len(names) - len(shown), int(counts.min()), most)
