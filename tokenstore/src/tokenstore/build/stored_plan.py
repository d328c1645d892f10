"""The plan of a build as files of its staging folder, so that images are listed once.

    plan.json                     the facts, and the hash that names the build
    plan/train-000000.jsonl.zst   the images of one part: a JSON array a line, an `Item`'s fields
    plan/codes.safetensors        codebook of the tokenizer, and the vocabulary that is taken over
    plan/outline.json             splits, classes, what listing refused, and the hash of each file
                                  above; written last, so where it is, the plan is whole

Whoever tokenizes reads the parts that are its own, one at a time; whoever packs reads none of them.
That and how the place is claimed is the business of `output`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import safetensors.numpy
import zstandard
from numpy.typing import NDArray

from tokenstore.build.plan import BuildPlan, Outline, Part, Plan, Slot
from tokenstore.errors import BuildError
from tokenstore.sources.base import Item, Rejected
from tokenstore.storage import Storage
from tokenstore.vocabulary import Vocabulary

PLAN = "plan.json"
OUTLINE = "plan/outline.json"
CODES = "plan/codes.safetensors"
LEVEL = 3


@dataclass(frozen=True)
class StoredPlan(BuildPlan):
    """A plan whose images are read from its files, part by part."""

    listed: Outline
    staging: Storage
    hashes: Mapping[str, str]

    @property
    def outline(self) -> Outline:
        """See `BuildPlan.outline`."""
        return self.listed

    def part(self, slot: Slot) -> Part:
        """See `BuildPlan.part`.

        Raises:
            BuildError: its file is gone or damaged.
        """
        content = _read(self.staging, _part_name(slot), self.hashes)
        return Part(slot, tuple(_items(content)))

    def codebook(self) -> NDArray[np.float32] | None:
        """Of the tokenizer: float32 [codes, d] in the order of ids, or None where it has none."""
        return _codes(self.staging, self.hashes).get("codebook")


def write_plan(plan: Plan, codebook: NDArray[np.float32] | None, staging: Storage) -> StoredPlan:
    """Write the files of a plan beside its `plan.json`; what is there already stays."""
    known = _known_hashes(staging)
    hashes = {}

    def put(name: str, content: bytes) -> None:
        hashes[name] = hashlib.sha256(content).hexdigest()
        if known.get(name) != hashes[name] or not staging.exists(name):
            staging.create(name, content)

    for slot in plan.slots():
        put(_part_name(slot), _listed(plan.part(slot)))
    arrays: dict[str, NDArray[Any]] = {} if codebook is None else {"codebook": codebook}
    if plan.vocabulary is not None:
        arrays |= {"ids": plan.vocabulary.ids, "counts": plan.vocabulary.counts}
    put(CODES, safetensors.numpy.save(arrays))
    if hashes != known:
        content = json.dumps({**asdict(plan.outline), "files": hashes}, indent=1)
        staging.create(OUTLINE, content.encode())
    return StoredPlan(plan.facts, plan.part_size, plan.vocabulary, plan.outline, staging, hashes)


def is_planned(staging: Storage) -> bool:
    """Whether a whole plan is there."""
    return staging.exists(OUTLINE) and staging.exists(PLAN)


def read_plan(staging: Storage) -> StoredPlan:
    """The plan of a staging folder.

    Raises:
        BuildError: there is none, or its files are damaged.
    """
    try:
        facts = json.loads(staging.read(PLAN))
        fields = json.loads(staging.read(OUTLINE))
        if facts.pop("hash") is None or not isinstance(facts["part_size"], int):
            raise _no_plan(staging)
        hashes = fields.pop("files")
        outline = Outline(
            splits=fields["splits"],
            labelled=tuple(fields["labelled"]),
            classes=None if fields["classes"] is None else tuple(fields["classes"]),
            rejects=tuple(Rejected(*reject) for reject in fields["rejects"]),
            notes=tuple(fields["notes"]),
            ignore_index=fields["ignore_index"],
            has_masks=fields["has_masks"],
            has_meta=fields["has_meta"],
        )
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _no_plan(staging) from error
    codes = _codes(staging, hashes)
    vocabulary = Vocabulary(codes["ids"], codes["counts"]) if "ids" in codes else None
    return StoredPlan(facts, facts["part_size"], vocabulary, outline, staging, hashes)


def changes(plan: Plan, staging: Storage) -> str:
    """What has become of the images since another plan was written: "1 new, 2 gone, e.g. 'a'"."""
    before = read_plan(staging)
    old = {(part.split, item.key): item for part in before.parts() for item in part.items}
    new = {(part.split, item.key): item for part in plan.parts() for item in part.items}
    kinds = {
        "new": [new[place] for place in new.keys() - old.keys()],
        "gone": [old[place] for place in old.keys() - new.keys()],
        "of another size or label": [
            item
            for place, item in new.items()
            if place in old and old[place][2:] != item[2:]  # label and size
        ],
    }
    found = [f"{len(items):,} {what}" for what, items in kinds.items() if items]
    some = min((item.key for items in kinds.values() for item in items), default=None)
    return ", ".join(found) + (f", e.g. '{some}'" if some else "")


def _known_hashes(staging: Storage) -> dict[str, str]:
    """The hashes that a whole plan has; none if there is no whole plan."""
    try:
        hashes: dict[str, str] = json.loads(staging.read(OUTLINE))["files"]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return {}
    return hashes


def _part_name(slot: Slot) -> str:
    return f"plan/{slot.name}.jsonl.zst"


def _listed(part: Part) -> bytes:
    """The images of a part; JSON escapes whatever a file name has that is no UTF-8."""
    lines = "".join(json.dumps(item) + "\n" for item in part.items)
    return zstandard.ZstdCompressor(level=LEVEL).compress(lines.encode())


def _items(content: bytes) -> Iterator[Item]:
    text = zstandard.ZstdDecompressor().decompress(content)
    return (Item(*json.loads(line)) for line in text.splitlines())


def _codes(staging: Storage, hashes: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = safetensors.numpy.load(_read(staging, CODES, hashes))
    return arrays


def _read(staging: Storage, name: str, hashes: Mapping[str, str]) -> bytes:
    try:
        content = staging.read(name)
    except FileNotFoundError:
        content = b""
    if hashlib.sha256(content).hexdigest() != hashes.get(name):
        raise BuildError(
            f"'{staging.url}/{name}' is gone or damaged. Delete '{staging.url}/{OUTLINE}' and "
            "repeat the line that planned the build; finished parts are kept."
        )
    return content


def _no_plan(staging: Storage) -> BuildError:
    return BuildError(
        f"'{staging.url}' holds no whole plan of a build. Make one: tokenstore plan INPUT -o "
        f"{staging.url.removesuffix('.building')}"
    )
