"""The pictures of a report: originals, their tokens as colours, what comes back, single codes.

Originals are looked for by key among images that the user points at, and pass through the store's
own preprocessing. Reconstructions need the tokenizer that made the store; tokens as colours need
nothing. What is missing is said, and nothing is put in its place.
"""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tokenstore.codecs.base import Ranks
from tokenstore.contact_sheet import coloured
from tokenstore.errors import ImageRejected, Mismatch, UsageError
from tokenstore.preprocess import Preprocess
from tokenstore.reader import Split, Store
from tokenstore.report.sampling import Sampled
from tokenstore.single_images import psnr
from tokenstore.sources import open_source

if TYPE_CHECKING:
    from tokenstore.sources.base import Item, Source

Picture = NDArray[np.uint8]  # [H, W, 3]

PICTURES = 18
CLASSES = 6  # of these, where there are labels
A_ROW = 3  # pictures on a wide screen
SWATCHES = 24
SWATCH_PIXELS = 64
JPEG_QUALITY = 90


@dataclass(frozen=True)
class Shown:
    """One image: data URIs of what there is of it; `psnr` in dB where both pictures are there."""

    number: int
    name: str
    tokens: str
    original: str | None = None
    decoded: str | None = None
    mask: str | None = None
    psnr: float | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Swatch:
    """The middle of a picture that is filled with one code; `share` of all counted tokens."""

    rank: int
    share: float
    picture: str


@dataclass(frozen=True)
class Originals:
    """Where originals come from: a source, its images by key, and whether it made the store."""

    source: "Source"
    items: dict[str, "Item"]
    same_listing: bool


def choose(sampled: Sampled) -> list[tuple[str | None, list[int]]]:
    """Rows of a sample to be shown, by class; a store without labels is one group.

    Classes are taken evenly from all that occur in the sample, and images in their order.
    """
    classes, labels = sampled.split.classes, sampled.labels
    if classes is None or labels is None:
        rows = _evenly(range(len(sampled.numbers)), PICTURES)
        return [(None, rows)] if rows else []
    present = _evenly(np.unique(labels).tolist(), CLASSES)
    each = max(PICTURES // max(len(present), 1) // A_ROW, 1) * A_ROW
    return [(classes[label], np.flatnonzero(labels == label)[:each].tolist()) for label in present]


def find_originals(split: Split, place: str, numbers: Sequence[int]) -> Originals:
    """The images at `place` that some samples of a split were made of.

    Raises:
        UsageError: the split has no keys, or the store does not say how pictures are resized.
        Mismatch: none of the samples is there.
        SourceError: there are no images at `place`.
    """
    keys = split.keys(numbers)
    if not split.store.manifest.preprocess:
        raise UsageError(
            f"'{split.store.url}' does not say how its pictures were resized, so originals cannot "
            "stand beside them. Leave out --images."
        )
    if keys is None:
        raise UsageError(
            f"split '{split.name}' of '{split.store.url}' has no keys, so its originals cannot be "
            "told apart. Leave out --images."
        )
    source = open_source(place)
    listing = source.listing()
    only = next(iter(listing.splits.values())) if len(listing.splits) == 1 else ()
    listed = listing.splits.get(split.name, only)
    wanted = set(keys)
    items = {item.key: item for item in listed if item.key in wanted}
    if not items:
        example = f", such as '{listed[0].key}'" if listed else ""
        raise Mismatch(
            f"none of {len(wanted)} keys of split '{split.name}', such as '{keys[0]}', is among "
            f"the {len(listed):,} images of '{place}'{example}. Give the folder that the store "
            "was built from."
        )
    return Originals(source, items, listing.sha256() == split.store.manifest.source.listing)


def show(
    sampled: Sampled,
    rows: Sequence[int],
    tokenizer: Any | None,
    originals: Originals | None,
    on_picture: Callable[[], None],
) -> list[Shown]:
    """Draw these rows of a sample.

    Raises:
        TokenizerError: the tokenizer cannot decode these ids.
    """
    store, split = sampled.split.store, sampled.split
    numbers = sampled.numbers[list(rows)]
    keys: Sequence[str | None] = split.keys(numbers) or [None] * len(rows)
    colours = code_colours(store.codebook, len(store.vocabulary))
    views = split.views(numbers)
    masks: Sequence[NDArray[np.uint8] | None] = split.masks(numbers) or [None] * len(rows)
    shown: list[Shown] = []
    for row, number, key, mask in zip(rows, numbers.tolist(), keys, masks, strict=True):
        grid = sampled.ranks[row]
        original, problem = _original(store.manifest.preprocess, key, originals)
        if originals is not None and views is not None and views[len(shown)]:
            original, problem = None, f"view {views[len(shown)]}, a part of its original"
        decoded = None if tokenizer is None else _decoded(tokenizer, store.ids(grid[None]))
        shown.append(
            Shown(
                number=number,
                name=key or f"sample {number}",
                tokens=data_uri(token_picture(grid, colours), "PNG"),
                original=None if original is None else data_uri(original),
                decoded=None if decoded is None else data_uri(decoded),
                mask=None if mask is None else _drawn(mask, store.manifest.ignore_index),
                psnr=_likeness(original, decoded),
                problem=problem,
            )
        )
        on_picture()
    return shown


def swatches(
    store: Store, tokenizer: Any | None, on_swatch: Callable[[], None]
) -> tuple[Swatch, ...]:
    """What the commonest codes look like: each decoded from a grid that holds nothing else.

    Raises:
        TokenizerError: the tokenizer cannot decode these ids.
    """
    counts = store.vocabulary.counts
    if tokenizer is None or not counts.any():
        return ()
    shown = []
    for rank in np.argsort(-counts, kind="stable")[:SWATCHES].tolist():
        if not counts[rank]:
            break
        picture = _decoded(tokenizer, store.ids(np.full((1, *store.manifest.grid), rank)))
        top, left = (max(side - SWATCH_PIXELS, 0) // 2 for side in picture.shape[:2])
        middle = picture[top : top + SWATCH_PIXELS, left : left + SWATCH_PIXELS]
        share = float(counts[rank] / counts.sum())
        shown.append(Swatch(rank, share, data_uri(np.ascontiguousarray(middle))))
        on_swatch()
    return tuple(shown)


def code_colours(codebook: NDArray[np.float32] | None, size: int) -> NDArray[np.uint8]:
    """A colour for each rank, uint8 [K, 3]: near codes look alike.

    The three largest principal components of the codebook rows are red, green and blue. Without a
    codebook ranks are greys, the commonest the darkest.
    """
    if codebook is None or len(codebook) < 2 or not np.isfinite(codebook).all():
        greys = np.log1p(np.arange(size)) / max(np.log1p(size - 1), 1)
        return np.repeat((255 * greys)[:, None], 3, axis=1).astype(np.uint8)
    rows = codebook.astype(np.float64) - codebook.mean(axis=0, dtype=np.float64)
    _, vectors = np.linalg.eigh(rows.T @ rows)
    axes = vectors[:, ::-1][:, :3]
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.sign(axes[largest, np.arange(axes.shape[1])])  # an eigenvector has no sign
    along = np.zeros((len(rows), 3))
    along[:, : axes.shape[1]] = rows @ axes
    low, high = np.percentile(along, (2, 98), axis=0)
    shares = ((along - low) / np.maximum(high - low, 1e-12)).clip(0, 1)
    colours: NDArray[np.uint8] = (255 * shares).astype(np.uint8)
    return colours


def token_picture(grid: Ranks, colours: NDArray[np.uint8]) -> Picture:
    """A grid [h, w] as a picture of h x w pixels; planes of a grid [c, h, w] side by side."""
    planes = grid[None] if grid.ndim == 2 else grid
    picture: Picture = colours[np.concatenate(list(planes), axis=1)]
    return picture


def data_uri(picture: Picture, form: Literal["JPEG", "PNG"] = "JPEG") -> str:
    """A picture, uint8 [H, W, 3], as an image that lies in the page itself."""
    from PIL import Image

    buffer = BytesIO()
    options = {"quality": JPEG_QUALITY, "subsampling": 0} if form == "JPEG" else {}
    Image.fromarray(picture).save(buffer, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _original(
    preprocess: dict[str, Any], key: str | None, originals: Originals | None
) -> tuple[Picture | None, str | None]:
    """The picture that the tokenizer saw, or why it is not there."""
    if originals is None:
        return None, None
    item = originals.items.get(key or "")
    if item is None:
        return None, "its original is not among the images"
    try:
        image = originals.source.load(item)
    except ImageRejected as reason:
        return None, f"its original cannot be used: {reason}"
    return Preprocess.from_json(preprocess).apply(image), None


def _likeness(original: Picture | None, decoded: Picture | None) -> float | None:
    """PSNR in dB where both are there and of one size."""
    if original is None or decoded is None or original.shape != decoded.shape:
        return None
    return psnr(original, decoded)


def _drawn(mask: NDArray[np.uint8], ignore_index: int | None) -> str:
    return data_uri(coloured(mask, ignore_index), "PNG")


def _decoded(tokenizer: Any, ids: NDArray[np.int32]) -> Picture:
    picture: Picture = tokenizer.to_uint8(tokenizer.decode(ids))[0]
    return picture


def _evenly(things: Sequence[int], most: int) -> list[int]:
    """At most so many of them, from the first to the last."""
    if len(things) <= most:
        return list(things)
    return [things[i * (len(things) - 1) // max(most - 1, 1)] for i in range(most)]
