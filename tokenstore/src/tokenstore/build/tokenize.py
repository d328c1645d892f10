"""One part of the images becomes one file of ids: the unit of work that every engine calls.

`tokenize_parts` is idempotent. For each part it writes `parts/NAME.safetensors` and then, as the
commit, the sidecar `parts/NAME.json` with the file's hash, its count and its rejects.
`finished_part` trusts a part only if its sidecar is of the same plan and the file's bytes are those
that it promises, so a part that was cut short, damaged or made for another plan is simply made
again.

Pictures come decoded from `decode`. Batches are runs of the part's list, whatever decodes them, and
never cross parts; the encoder is fed across them, and a part is written while the next is encoded.

    ids     uint16 [n, *grid], int32 where the codebook has more than 65,536 codes
    labels  int64 [n], in labelled splits
    counts  int64 [codes of the codebook]
    keys    uint8, the keys in UTF-8 joined by line feeds, unless the build keeps none
    meta    uint8, JSON objects joined likewise, where images have metadata
    views   uint16 [n], where there are several of an image
    masks, mask_ends    uint8, int64 [n]: masks as a store keeps them, one after the other
"""

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from tokenstore.build.decode import Batch, decoded_parts, decoding_by
from tokenstore.build.pictures import Picture
from tokenstore.build.plan import BuildPlan, Part
from tokenstore.build.views import Views
from tokenstore.build.workers import DecodingPool
from tokenstore.columns import joined
from tokenstore.errors import BuildError, ImageRejected, TokenizerError
from tokenstore.sources.base import Item, Rejected, printable
from tokenstore.storage import Storage

if TYPE_CHECKING:
    from tokenstore.sources.base import Source
    from tokenstore.tokenizers.base import Tokenizer

BYTES_AN_ID = 2  # of a part's file, at least
NOTHING = np.empty((0, 0, 3), np.uint8)  # pixels that are encoded and no longer needed
OnBatch = Callable[[int, Sequence[Rejected]], None]


class Named(Protocol):
    """A slot, a part or its report."""

    @property
    def name(self) -> str:
        """`train-000000`."""


@dataclass(frozen=True)
class PartReport:
    """The sidecar of a finished part; `began` and `ended` are seconds since 1970."""

    plan: str
    split: str
    number: int
    count: int
    source_bytes: int
    sha256: str
    rejects: tuple[Rejected, ...]
    began: float = field(compare=False)
    ended: float = field(compare=False)

    @property
    def name(self) -> str:
        """`train-000000`."""
        return f"{self.split}-{self.number:06d}"


@dataclass(frozen=True)
class PartContent:
    """The arrays of a finished part; see the top of this file."""

    ids: NDArray[np.integer]
    counts: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    keys: list[str] | None
    masks: list[bytes] | None
    meta: list[str] | None
    views: NDArray[np.uint16] | None


class Kept(NamedTuple):
    """An image that could be used."""

    item: Item
    picture: Picture


@dataclass(frozen=True)
class Workbench:
    """What tokenizing needs beside the part: where images come from and where ids go."""

    plan: BuildPlan
    source: "Source"
    tokenizer: "Tokenizer"
    staging: Storage
    pool: DecodingPool
    clock: Callable[[], float] = time.time

    @property
    def batch_size(self) -> int:
        """Images in a full batch."""
        size: int = self.plan.facts["batch_size"]
        return size


def tokenize_part(
    part: Part, bench: Workbench, on_batch: OnBatch = lambda images, rejects: None
) -> PartReport:
    """Make one part's file and commit it; see `tokenize_parts`."""
    (report,) = tokenize_parts([part], bench, on_batch)
    return report


def tokenize_parts(
    parts: Iterable[Part], bench: Workbench, on_batch: OnBatch = lambda images, rejects: None
) -> Iterator[PartReport]:
    """Make the file of each part and commit it.

    Args:
        parts: the images; the next part is asked for when the workers would have nothing to do.
        bench: everything the work needs.
        on_batch: told as the work goes on how many images each batch was of and which were
            rejected; an error that it raises ends the work, with nothing committed of the part.
    """
    begun: deque[_Draft] = deque()
    owners: deque[_Draft] = deque()  # of the batches that the encoder has

    def pictures() -> Iterator[NDArray[np.uint8]]:
        """Batches [n, H, W, 3] of what can be used; whoever asks for one has taken the last."""
        views = Views.of(bench.plan.facts["preprocess"])
        size = max(1, bench.batch_size // views.count)
        decode = decoding_by(bench.source, bench.tokenizer.preprocessing, views)
        for part, batches in decoded_parts(parts, size, decode, bench.pool):
            draft = _Draft(part, bench, views.count)
            begun.append(draft)
            for batch in batches:
                usable, rejects = draft.take(batch)
                if usable:
                    owners.append(draft)
                    draft.awaited += 1
                    yield np.stack(usable)
                on_batch(len(batch[0]), rejects)
            draft.is_read = True

    with ThreadPoolExecutor(1) as writer:
        writing: deque[Future[PartReport]] = deque()
        for ids in bench.tokenizer.encode_each(pictures()):
            owners.popleft().receive(ids.numpy())
            while begun and begun[0].is_complete:
                writing.append(writer.submit(_commit, begun.popleft(), bench))
                while len(writing) > 1 or (writing and writing[0].done()):
                    yield writing.popleft().result()
        writing.extend(writer.submit(_commit, draft, bench) for draft in begun)
        yield from (future.result() for future in writing)


class _Draft:
    """A part on its way: what was read of it, and the ids that came back so far.

    Ids are copied into one array at once: kept batch by batch they would lie scattered among the
    encoder's large blocks, which could then not be used again (a build grew by 12 kB an image).
    """

    def __init__(self, part: Part, bench: Workbench, views: int) -> None:
        self.part, self.began, self.tokenizer = part, bench.clock(), bench.tokenizer
        self.kept: list[Kept] = []
        self.rejects: list[Rejected] = []
        codes = len(bench.tokenizer.codebook)
        dtype = np.uint16 if codes <= 1 << 16 else np.int32
        self._ids = np.empty((len(part.items) * views, *bench.tokenizer.grid), dtype)
        self._received = 0
        self.awaited = 0
        self.is_read = False

    @property
    def ids(self) -> NDArray[np.integer]:
        """Those that came back."""
        return self._ids[: self._received]

    @property
    def is_complete(self) -> bool:
        return self.is_read and not self.awaited

    def take(self, batch: Batch) -> tuple[list[NDArray[np.uint8]], list[Rejected]]:
        """The pictures of a batch that can be used, and the rejects in it."""
        usable, rejects = [], []
        for item, decoded in zip(*batch, strict=True):
            if isinstance(decoded, ImageRejected):
                rejects.append(_rejected(self.part.split, item, decoded))
            else:
                for picture in decoded:
                    usable.append(picture.pixels)
                    self.kept.append(Kept(item, picture._replace(pixels=NOTHING)))
        self.rejects += rejects
        return usable, rejects

    def receive(self, ids: NDArray[np.integer]) -> None:
        """Take the ids of a batch, [n, *grid].

        Raises:
            TokenizerError: one lies outside the codebook.
        """
        codes = len(self.tokenizer.codebook)
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < codes:
            wrong = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
            raise TokenizerError(
                f"tokenizer '{self.tokenizer.name}' gave the id {wrong}, outside its codebook of "
                f"{codes} codes, for an image of {self.part.name}; its package is broken"
            )
        self._ids[self._received : self._received + len(ids)] = ids
        self._received += len(ids)
        self.awaited -= 1


def _commit(draft: _Draft, bench: Workbench) -> PartReport:
    part = draft.part
    content = _file_content(draft, bench)
    bench.staging.create(_ids_name(part), content)
    report = PartReport(
        plan=bench.plan.hash,
        split=part.split,
        number=part.slot.number,
        count=len(draft.kept),
        source_bytes=sum(one.item.size for one in draft.kept if not one.picture.view),
        sha256=hashlib.sha256(content).hexdigest(),
        rejects=tuple(draft.rejects),
        began=draft.began,
        ended=bench.clock(),
    )
    bench.staging.create(_sidecar_name(part), json.dumps(asdict(report), indent=1).encode())
    return report


def finished_part(part: Named, plan_hash: str, staging: Storage) -> PartReport | None:
    """The report of a part that is done for this plan and undamaged, else None."""
    report = reported_part(part, plan_hash, staging)
    try:
        found = hashlib.sha256(staging.read(_ids_name(part))).hexdigest() if report else ""
    except FileNotFoundError:
        return None
    return report if report and found == report.sha256 else None


def reported_part(part: Named, plan_hash: str, staging: Storage) -> PartReport | None:
    """What the sidecar of a part says, else None; its file is not looked at."""
    try:
        fields = json.loads(staging.read(_sidecar_name(part)))
        fields["rejects"] = tuple(Rejected(*reject) for reject in fields["rejects"])
        report = PartReport(**fields)
        same = (report.plan, report.name) == (plan_hash, part.name)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return report if same else None


def read_part(report: PartReport, staging: Storage) -> PartContent:
    """The arrays of a finished part.

    Raises:
        BuildError: its file has changed since it was finished.
    """
    content = staging.read(_ids_name(report))
    if hashlib.sha256(content).hexdigest() != report.sha256:
        raise BuildError(
            f"'{staging.url}/{_ids_name(report)}' has changed since it was finished. Repeat the "
            "line that built it: the part is made again."
        )
    arrays = safetensors.numpy.load(content)
    masks = None
    if "masks" in arrays:
        ends = arrays["mask_ends"]
        masks = [one.tobytes() for one in np.split(arrays["masks"], ends[:-1])][: len(ends)]
    return PartContent(
        ids=arrays["ids"],
        counts=arrays["counts"],
        labels=arrays.get("labels"),
        keys=_strings(arrays.get("keys")),
        masks=masks,
        meta=_strings(arrays.get("meta")),
        views=arrays.get("views"),
    )


def _lines(strings: Sequence[str]) -> NDArray[np.uint8]:
    return np.frombuffer("\n".join(strings).encode(), np.uint8)


def _strings(lines: NDArray[np.uint8] | None) -> list[str] | None:
    if lines is None:
        return None
    text = lines.tobytes().decode()
    return text.split("\n") if text else []


def read_counts(report: PartReport, staging: Storage) -> NDArray[np.int64]:
    """`counts` of a finished part alone, by two small reads; only `read_part` checks the hash."""
    name = _ids_name(report)
    length = int.from_bytes(staging.part(name, 0, 8), "little")
    header = json.loads(staging.part(name, 8, 8 + length))
    start, end = header["counts"]["data_offsets"]
    return np.frombuffer(staging.part(name, 8 + length + start, 8 + length + end), "<i8")


def _ids_name(part: Named) -> str:
    return f"parts/{part.name}.safetensors"


def _sidecar_name(part: Named) -> str:
    return f"parts/{part.name}.json"


def _rejected(split: str, item: Item, reason: ImageRejected) -> Rejected:
    return Rejected(split, item.key, printable(item.path), str(reason))


def _file_content(draft: _Draft, bench: Workbench) -> bytes:
    """The bytes of the part's file; safetensors sorts its tensors, so they are reproducible."""
    codes = len(bench.tokenizer.codebook)
    arrays: dict[str, NDArray[Any]] = {
        "ids": draft.ids,
        "counts": np.bincount(draft.ids.ravel(), minlength=codes).astype(np.int64),
    }
    kept = draft.kept
    if bench.plan.is_labelled(draft.part.split):
        arrays["labels"] = np.array([one.item.label for one in kept], np.int64)
    if bench.plan.facts["keys"]:
        arrays["keys"] = _lines([one.item.key for one in kept])
    outline = bench.plan.outline
    if outline.has_masks:
        arrays["masks"], arrays["mask_ends"] = joined([one.picture.mask or b"" for one in kept])
    if outline.has_meta:
        arrays["meta"] = _lines([one.picture.meta or "{}" for one in kept])
    if "views" in bench.plan.facts["preprocess"]:
        arrays["views"] = np.array([one.picture.view for one in kept], np.uint16)
    return safetensors.numpy.save(arrays)
