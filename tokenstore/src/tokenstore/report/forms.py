"""Table 1 of SeiT for one store: what the same images cost as pixels, files and tokens.

Every form is computed on the measured part of a sample; codecs learn their tables on the other part
and are charged with them. All codecs that are installed are measured, by name from the registry,
and what each has written is decoded again and compared. Park et al., arXiv 2303.11114, section 3.
"""

import inspect
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from tokenstore import checks, registry
from tokenstore.codecs.base import Codec, CodecSpec, Ranks
from tokenstore.codecs.escape import escape
from tokenstore.errors import BrokenPlugin, CodecError
from tokenstore.report.sampling import Sampled

Kind = Literal["pixels", "files", "plain", "codec", "bound"]

GZIP_LEVEL = 6  # gzip's own default, as `gzip` in a shell has it


@dataclass(frozen=True)
class Form:
    """One way to keep the images.

    Attributes:
        name: as the table calls it.
        meaning: one sentence.
        kind: pixels, image files, plain arrays of tokens, a codec, or a bound that no code reaches.
        payload: bytes an image without what images share; None where it is not known.
        tables: bytes an image of what all images of the store share.
        alone: whether one image can be read without the others.
        stored: whether this split is kept so now.
        problem: why there is no number.
    """

    name: str
    meaning: str
    kind: Kind
    payload: float | None
    tables: float = 0.0
    alone: bool = True
    stored: bool = False
    problem: str | None = None

    @property
    def size(self) -> float | None:
        """Bytes an image, the share of the tables among them."""
        return None if self.payload is None else self.payload + self.tables


@dataclass(frozen=True)
class Forms:
    """All forms, largest kinds first; `entropy` is the order-0 entropy in bytes an image."""

    forms: tuple[Form, ...]
    fitted: int
    measured: int
    entropy: float

    def of_kind(self, *kinds: Kind) -> list[Form]:
        """The forms of these kinds, in their order."""
        return [form for form in self.forms if form.kind in kinds]

    @property
    def files(self) -> float | None:
        """Bytes of an image file, where the store knows."""
        return next((form.size for form in self.of_kind("files")), None)


def codec_names() -> list[str]:
    """Every codec that is installed."""
    return registry.names("tokenstore.codecs")


def measure_forms(sampled: Sampled, on_codec: Callable[[], None]) -> Forms:
    """Measure every form; `on_codec` is called after each codec."""
    entropy = _cross_entropy(sampled)
    codecs = []
    for name in codec_names():
        codecs.append(_coded(name, sampled))
        on_codec()
    codecs.sort(key=lambda form: (-(form.size or math.inf), form.name))
    forms = (*_pixels(sampled), *_plain(sampled), *codecs, *_bounds(sampled, entropy))
    return Forms(forms, len(sampled.fitted), len(sampled.measured), entropy)


def _pixels(sampled: Sampled) -> Iterator[Form]:
    """Pixels as the tokenizer saw them, and the files they came from; of the whole split."""
    manifest, entry = sampled.split.store.manifest, sampled.split.entry
    size = manifest.preprocess.get("size")
    sides = size if isinstance(size, list) and len(size) == 2 else None
    pixels = math.prod(int(str(side)) for side in sides) * 3 if sides else None
    shape = f"{sides[0]}x{sides[1]}" if sides else "unknown"
    yield Form(
        "pixels",
        f"uint8 RGB at the tokenizer's resolution, {shape}",
        "pixels",
        pixels,
        problem=None if sides else "the store does not say its resolution",
    )
    known = entry.source_bytes > 0
    yield Form(
        "image files",
        "the JPEG (or PNG, WebP, BMP) files that the images came from, at their own resolution",
        "files",
        entry.source_bytes / entry.count if known else None,
        problem=None if known else "the store does not know the files it came from",
    )


def _plain(sampled: Sampled) -> Iterator[Form]:
    manifest, grids = sampled.split.store.manifest, sampled.measured
    tokens = math.prod(manifest.grid)
    bits = (manifest.vocabulary.size - 1).bit_length()
    escaped, _ = escape(grids)
    whole = zlib.compressobj(GZIP_LEVEL, wbits=16 + zlib.MAX_WBITS)
    compressed = len(whole.compress(escaped.tobytes())) + len(whole.flush())
    yield Form("tokens, uint16", "two bytes a token", "plain", 2 * tokens)
    yield Form("tokens, packed", f"{bits} bits a token", "plain", -(-tokens * bits // 8))
    yield Form(
        "escape code",
        "one byte for the 255 commonest codes, more for the others (SeiT, equation 1)",
        "plain",
        len(escaped) / len(grids),
    )
    yield Form(
        "escape code, gzip",
        "all images in one gzip stream, as the paper has it",
        "plain",
        compressed / len(grids),
        alone=False,
    )


def _bounds(sampled: Sampled, entropy: float) -> Iterator[Form]:
    manifest = sampled.split.store.manifest
    uniform = math.log2(manifest.vocabulary.size) * math.prod(manifest.grid) / 8
    yield Form(
        "codes equally likely",
        f"log2 of {manifest.vocabulary.size:,} codes: the paper's theoretical optimum",
        "bound",
        uniform,
    )
    yield Form(
        "order-0 entropy",
        "the least for a code that knows only how common each token is in this store",
        "bound",
        entropy,
    )


def _coded(name: str, sampled: Sampled) -> Form:
    """One codec, fitted on the one part of the sample and measured on the other."""
    store = sampled.split.store
    images = sum(len(split) for split in store.values())
    spec = CodecSpec(store.manifest.vocabulary.size, store.manifest.grid)
    used = {shard.tables for shard in sampled.split.entry.shards}
    stored = name in {store.manifest.table_sets[tables].codec for tables in used}
    try:
        kind: type[Codec] = registry.find("tokenstore.codecs", name)
        codec = kind.fit(sampled.fitted, spec, images)
        payload = _payload(codec, sampled.measured) + checks.BYTES
    except (CodecError, BrokenPlugin) as error:
        return Form(name, "", "codec", None, stored=stored, problem=str(error))
    tables = codec.tables()
    shipped = len(safetensors.numpy.save(tables)) if tables else 0
    return Form(name, _first_line(kind), "codec", payload, shipped / images, stored=stored)


def _payload(codec: Codec, grids: Ranks) -> float:
    """Bytes an image of the coded grids, which must come back as they were."""
    data, ends = codec.encode(grids)
    decoded = np.empty_like(grids)
    codec.decode(data, checks.starts_of(ends), ends, decoded)
    if not np.array_equal(decoded, grids):
        raise CodecError(f"codec {codec.name} does not give back what it was given; do not use it")
    return len(data) / len(grids)


def _first_line(kind: type[Codec]) -> str:
    """What the codec says of itself: `"a gzip member an image; nothing shared"`."""
    line = (inspect.getdoc(kind) or "").partition("\n")[0].rstrip(".")
    return line[:1].lower() + line[1:]


def _cross_entropy(sampled: Sampled) -> float:
    """Bytes an image of the measured tokens for an ideal code of the store's own counts.

    Over all images that the vocabulary counted, this is the order-0 entropy. A code that was never
    counted (it occurs in another split only) is taken as seen once.
    """
    counts = np.maximum(sampled.split.store.vocabulary.counts, 1)
    bits: NDArray[np.float64] = np.log2(counts.sum()) - np.log2(counts)
    grids = sampled.measured
    seen = np.bincount(grids.ravel(), minlength=len(counts))
    return float((seen * bits).sum()) / 8 / len(grids)
