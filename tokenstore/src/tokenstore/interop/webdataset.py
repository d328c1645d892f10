"""webdataset: tars whose neighbouring members of one name are a sample.

    a/b.npy  a/b.cls  a/b.json     ids, class number or name, any object; the key is `a/b`

The name goes up to the first dot behind the last slash, as webdataset has it. Exactly one member
of a sample ends in `npy` (`ids.npy` too); a label is its `cls`, or else `label` in its JSON object,
which is kept as metadata. Other members are left out and counted. Members are read in sequence and
never unpacked onto the disk, also from compressed tars; pickles are refused.

An export is SPLIT-NNNNNN.tar. webdataset cannot have dots in names, so a key with one goes into a
member `key` of a sample that is named by its number.
"""

import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokenstore.columns import json_line
from tokenstore.errors import SourceError
from tokenstore.interop.arrays import read_npy, square, whole_numbers
from tokenstore.interop.base import CHUNK, Chunk, Format, Grid, ImportRequest, Incoming, Outgoing
from tokenstore.interop.card import TokenCard, read_card
from tokenstore.interop.codebook import NAME, codebook_of, write_codebook
from tokenstore.interop.layout import split_files
from tokenstore.interop.tars import SUFFIXES, members

PICKLES = ("pyd", "pth", "pt", "pkl", "pickle", "ckpt", "dill", "joblib", "npz")
SHARD_IMAGES = 16_384


@dataclass
class Sample:
    """The members of one sample that are of use."""

    key: str
    tar: Path
    members: dict[str, bytes] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """What an error calls it."""
        return f"'{self.tar}', sample '{self.key}'"

    def ids(self, grid: Grid | None) -> NDArray[np.integer[Any]]:
        """Its ids, of the grid that is asked for or of their own."""
        names = [name for name in self.members if name.split(".")[-1] == "npy"]
        if len(names) != 1:
            raise SourceError(
                f"{self.where} has {len(names)} members with ids (.npy), expected one; its members "
                f"are {', '.join(self.members) or 'none'}. Members of a sample must be neighbours."
            )
        array = whole_numbers(read_npy(self.members[names[0]], self.where), self.where)
        if grid is not None and array.size == np.prod(grid):
            return array.reshape(grid)
        if array.ndim == 1 and grid is None:
            return array.reshape(square(len(array), self.where))
        if grid is not None or array.ndim not in (2, 3):
            wanted = "x".join(map(str, grid)) if grid else "[h, w] or [c, h, w]"
            raise SourceError(
                f"{self.where} is {list(array.shape)}, expected {wanted}. Say --grid as ids lie."
            )
        return array

    def label(self) -> int | str | None:
        """Its class number or name."""
        if "cls" in self.members:
            text = self._text("cls").strip()
            return int(text) if re.fullmatch(r"-?\d+", text) else text
        label = (self.meta() or {}).get("label")
        return label if type(label) in (int, str) else None

    def meta(self) -> dict[str, Any] | None:
        """Its JSON object."""
        if "json" not in self.members:
            return None
        try:
            found = json.loads(self._text("json"))
        except (ValueError, RecursionError) as error:
            raise SourceError(
                f"{self.where}: its .json is no JSON ({error}). Repair it."
            ) from error
        if not isinstance(found, dict):
            raise SourceError(
                f"{self.where}: its .json holds a {type(found).__name__}, expected an object."
            )
        return found

    def name(self) -> str:
        """Its key, where it has a member that says another than its name."""
        return self._text("key") if "key" in self.members else self.key

    def _text(self, member: str) -> str:
        try:
            return self.members[member].decode()
        except UnicodeDecodeError as error:
            raise SourceError(f"{self.where}: its .{member} is no UTF-8 text: {error}") from error


class WebDataset(Format):
    """Tars of samples; see above."""

    name = "webdataset"

    @classmethod
    def open(cls, request: ImportRequest) -> Incoming:
        """See `Format.open`; how many samples there are is known after reading only."""
        place = request.place
        folder = place if place.is_dir() else place.parent
        card = read_card(folder)
        files = split_files(place, SUFFIXES, request.split, card)
        left_out: Counter[str] = Counter()
        first = next(iter(files.values()))[0]
        sample = next(_samples(first, Counter()), None)
        if sample is None:
            raise SourceError(f"'{first}' holds no sample. Give a tar with .npy members.")
        grid = sample.ids(request.grid or card.grid).shape
        notes: list[str] = []
        return Incoming(
            grid=grid,
            splits={split: _reader(tars, grid, left_out, notes) for split, tars in files.items()},
            card=card,
            codebook=codebook_of(request.codebook, folder / NAME),
            notes=notes,
        )

    @classmethod
    def export(cls, outgoing: Outgoing) -> None:
        """See `Format.export`."""
        for split in outgoing.splits:
            _write_split(outgoing, split)
        if any("view" in split.columns for split in outgoing.store.values()):
            outgoing.notes.append("view numbers are left out: tars have no place for them")
        write_codebook(outgoing.folder, outgoing.store.vocabulary)
        TokenCard.of(outgoing.store.manifest, outgoing.splits).write(outgoing.folder)


def _reader(
    tars: Sequence[Path], grid: Grid, left_out: Counter[str], notes: list[str]
) -> Callable[[], Iterator[Chunk]]:
    def chunks() -> Iterator[Chunk]:
        left_out.clear()
        waiting: list[Sample] = []
        for tar in tars:
            for sample in _samples(tar, left_out):
                waiting.append(sample)
                if len(waiting) == CHUNK:
                    yield _chunk(waiting, grid)
                    waiting = []
        if waiting:
            yield _chunk(waiting, grid)
        told = [f"{count:,} members .{name} are left out" for name, count in left_out.items()]
        notes.extend(note for note in sorted(told) if note not in notes)

    return chunks


def _chunk(samples: list[Sample], grid: Grid) -> Chunk:
    return Chunk(
        ids=np.stack([sample.ids(grid) for sample in samples]),
        where=lambda i: samples[i].where,
        labels=_column([sample.label() for sample in samples], samples, "label"),
        keys=[sample.name() for sample in samples],
        meta=_column([sample.meta() for sample in samples], samples, "json"),
    )


def _column(values: list[Any], samples: list[Sample], name: str) -> Any:
    """A column if every sample has it, None if none has."""
    missing = [sample for sample, value in zip(samples, values, strict=True) if value is None]
    if len(missing) == len(values):
        return None
    if missing:
        raise SourceError(
            f"{missing[0].where} has no {name}, others have one. Give it to all samples or to none."
        )
    if name == "label" and len({type(value) for value in values}) > 1:
        raise SourceError(
            f"{samples[0].where} and others: some labels are numbers and some names. Use one kind."
        )
    if name == "label" and type(values[0]) is int:
        return np.array(values, np.int64)
    return values


def _samples(tar: Path, left_out: Counter[str]) -> Iterator[Sample]:
    """The samples of a tar: runs of members with one name."""
    sample: Sample | None = None
    for key, extension, content in _members(tar):
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = Sample(key, tar)
        kind = extension.split(".")[-1]
        if kind in PICKLES:
            raise SourceError(
                f"'{tar}', member '{key}.{extension}' is a pickle or an archive, which is not read "
                "here, since it can run code. Write the ids as .npy."
            )
        if kind == "npy" or extension in ("cls", "json", "key"):
            if extension in sample.members:
                raise SourceError(f"{sample.where} has two members '.{extension}'. Remove one.")
            sample.members[extension] = content
        else:
            left_out[extension] += 1
    if sample is not None:
        yield sample


def _members(tar: Path) -> Iterator[tuple[str, str, bytes]]:
    """Name, extension and bytes of each file in a tar that is not hidden."""
    for member, content in members(tar):
        path = PurePosixPath(member)
        stem, _, extension = path.name.partition(".")
        if stem:
            yield (path.parent / stem).as_posix(), extension, content


def _write_split(outgoing: Outgoing, split: str) -> None:
    archive: tarfile.TarFile | None = None
    written = 0
    try:
        for chunk in outgoing.chunks(split):
            if written % SHARD_IMAGES == 0:
                if archive is not None:
                    archive.close()
                name = outgoing.folder / f"{split}-{written // SHARD_IMAGES:06d}.tar"
                archive = tarfile.open(name, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
            for i in range(len(chunk)):
                for member, content in _written(chunk, i, f"{written + i:09d}"):
                    info = tarfile.TarInfo(member)
                    info.size, info.mode = len(content), 0o644
                    if archive is not None:
                        archive.addfile(info, io.BytesIO(content))
            written += len(chunk)
    finally:
        if archive is not None:
            archive.close()


def _written(chunk: Chunk, i: int, number: str) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the members of sample i."""
    key = chunk.keys[i] if chunk.keys else number
    is_plain = bool(re.fullmatch(r"(?!.*\.\.)[^\0]*?[^./\0]+", key)) and not key.startswith("/")
    stem = key if is_plain and "." not in PurePosixPath(key).name else number
    ids = io.BytesIO()
    np.save(ids, chunk.ids[i])
    yield f"{stem}.npy", ids.getvalue()
    if chunk.labels is not None:
        yield f"{stem}.cls", str(chunk.labels[i]).encode()
    if chunk.meta is not None:
        yield f"{stem}.json", json_line(chunk.meta[i]).encode()
    if stem != key:
        yield f"{stem}.key", key.encode()


PLUGIN = WebDataset
