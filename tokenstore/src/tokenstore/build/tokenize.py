"""One part of the images becomes one file of ids: the unit of work that every engine calls.

`tokenize_part` is idempotent. It writes `parts/NAME.safetensors` and then, as the commit, the
sidecar `parts/NAME.json` with the file's hash, its count and its rejects. `finished_part` trusts a
part only if its sidecar is of the same plan and the file's bytes are those that it promises, so a
part that was cut short, damaged or made for another plan is simply made again.

Pictures come decoded from `decode`. Batches are runs of the part's list, whatever decodes them, and
never cross parts.

    ids     uint16 [n, *grid], int32 where the codebook has more than 65,536 codes
    labels  int64 [n], in labelled splits
    counts  int64 [codes of the codebook]
    keys    uint8, the keys in UTF-8 joined by line feeds, unless the build keeps none
    masks, mask_ends    uint8, int64 [n]: masks as a store keeps them, one after the other
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from tokenstore.build.decode import Decoded, DecodingPool, decoded_batches, decoding_by
from tokenstore.build.pictures import Picture
from tokenstore.build.plan import Part, Plan
from tokenstore.columns import joined
from tokenstore.errors import ImageRejected, TokenizerError
from tokenstore.sources.base import Item, Rejected, printable
from tokenstore.storage import Storage

if TYPE_CHECKING:
    from tokenstore.sources.base import Source
    from tokenstore.tokenizers.base import Tokenizer

BYTES_AN_ID = 2  # of a part's file, at least
NOTHING = np.empty((0, 0, 3), np.uint8)  # pixels that are encoded and no longer needed
OnBatch = Callable[[int, Sequence[Rejected]], None]


@dataclass(frozen=True)
class PartReport:
    """The sidecar of a finished part."""

    plan: str
    split: str
    number: int
    count: int
    source_bytes: int
    sha256: str
    rejects: tuple[Rejected, ...]


@dataclass(frozen=True)
class PartContent:
    """The arrays of a finished part; see the top of this file."""

    ids: NDArray[np.integer]
    counts: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    keys: list[str] | None
    masks: list[bytes] | None


class Kept(NamedTuple):
    """An image that could be used."""

    item: Item
    picture: Picture


@dataclass(frozen=True)
class Workbench:
    """What tokenizing needs beside the part: where images come from and where ids go."""

    plan: Plan
    source: "Source"
    tokenizer: "Tokenizer"
    staging: Storage
    pool: DecodingPool

    @property
    def batch_size(self) -> int:
        """Images in a full batch."""
        size: int = self.plan.facts["batch_size"]
        return size


def tokenize_part(
    part: Part, bench: Workbench, on_batch: OnBatch = lambda images, rejects: None
) -> PartReport:
    """Make a part's file and commit it.

    Args:
        part: the images.
        bench: everything the work needs.
        on_batch: told as the work goes on how many images each batch was of and which were
            rejected; an error that it raises ends the work, with nothing committed.
    """
    kept: list[Kept] = []
    rejects: list[Rejected] = []

    def pictures() -> Iterator[NDArray[np.uint8]]:
        """Batches [n, H, W, 3] of what can be used; whoever asks for one has taken the last."""
        decode = decoding_by(bench.source, bench.tokenizer.preprocessing)
        for items, decoded in decoded_batches(part.items, bench.batch_size, decode, bench.pool):
            refused = [_rejected(part.split, i, d) for i, d in zip(items, decoded, strict=True)]
            fresh = [reject for reject in refused if reject is not None]
            rejects.extend(fresh)
            usable = [
                Kept(item, picture)
                for item, picture in zip(items, decoded, strict=True)
                if not isinstance(picture, ImageRejected)
            ]
            kept.extend(Kept(item, picture._replace(pixels=NOTHING)) for item, picture in usable)
            if usable:
                yield np.stack([one.picture.pixels for one in usable])
            on_batch(len(items), fresh)

    batches = [ids.numpy() for ids in bench.tokenizer.encode_each(pictures())]
    content = _file_content(batches, kept, part, bench)
    bench.staging.create(_ids_name(part), content)
    report = PartReport(
        plan=bench.plan.hash,
        split=part.split,
        number=part.number,
        count=len(kept),
        source_bytes=sum(one.item.size for one in kept),
        sha256=hashlib.sha256(content).hexdigest(),
        rejects=tuple(rejects),
    )
    bench.staging.create(_sidecar_name(part), json.dumps(asdict(report), indent=1).encode())
    return report


def finished_part(part: Part, plan_hash: str, staging: Storage) -> PartReport | None:
    """The report of a part that is done for this plan and undamaged, else None."""
    try:
        fields = json.loads(staging.read(_sidecar_name(part)))
        fields["rejects"] = tuple(Rejected(*reject) for reject in fields["rejects"])
        report = PartReport(**fields)
        found = hashlib.sha256(staging.read(_ids_name(part))).hexdigest()
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    same = (report.plan, report.split, report.number) == (plan_hash, part.split, part.number)
    return report if same and found == report.sha256 else None


def read_part(part: Part, staging: Storage) -> PartContent:
    """The arrays of a finished part."""
    arrays = safetensors.numpy.load(staging.read(_ids_name(part)))
    keys = None
    if "keys" in arrays:
        text = arrays["keys"].tobytes().decode()
        keys = text.split("\n") if text else []
    masks = None
    if "masks" in arrays:
        ends = arrays["mask_ends"]
        masks = [one.tobytes() for one in np.split(arrays["masks"], ends[:-1])][: len(ends)]
    return PartContent(arrays["ids"], arrays["counts"], arrays.get("labels"), keys, masks)


def _ids_name(part: Part) -> str:
    return f"parts/{part.name}.safetensors"


def _sidecar_name(part: Part) -> str:
    return f"parts/{part.name}.json"


def _rejected(split: str, item: Item, decoded: Decoded) -> Rejected | None:
    if isinstance(decoded, ImageRejected):
        return Rejected(split, item.key, printable(item.path), str(decoded))
    return None


def _file_content(
    batches: Sequence[NDArray[np.integer]], kept: Sequence[Kept], part: Part, bench: Workbench
) -> bytes:
    """The bytes of the part's file; safetensors sorts its tensors, so they are reproducible."""
    codes = len(bench.tokenizer.codebook)
    dtype = np.uint16 if codes <= 1 << 16 else np.int32
    empty = np.empty((0, *bench.tokenizer.grid), dtype)
    found = np.concatenate([empty, *batches])
    if found.size and not 0 <= int(found.min()) <= int(found.max()) < codes:
        wrong = int(found.min()) if int(found.min()) < 0 else int(found.max())
        raise TokenizerError(
            f"tokenizer '{bench.tokenizer.name}' gave the id {wrong}, outside its codebook of "
            f"{codes} codes, for an image of {part.name}; its package is broken"
        )
    ids = found.astype(dtype)
    arrays: dict[str, NDArray[Any]] = {
        "ids": ids,
        "counts": np.bincount(ids.ravel(), minlength=codes).astype(np.int64),
    }
    if bench.plan.is_labelled(part.split):
        arrays["labels"] = np.array([one.item.label for one in kept], np.int64)
    if bench.plan.facts["keys"]:
        arrays["keys"] = np.frombuffer("\n".join(one.item.key for one in kept).encode(), np.uint8)
    if bench.plan.listing.has_masks:
        arrays["masks"], arrays["mask_ends"] = joined([one.picture.mask or b"" for one in kept])
    return safetensors.numpy.save(arrays)
