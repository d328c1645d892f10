"""Tar archives and WebDataset shards, local or remote; also ImageNet's tar of tars.

* **INPUT** is one tar, a folder (or URL of one) that holds tars, a pattern of them with `*`, or a
  row of them with numbers in braces, `shard-{000..127}.tar`, which needs no listing.
* **Plain tars** are read as the folder that they hold: splits, class folders, `classes.json`. A tar
  inside a tar is the folder of its name (ILSVRC2012_img_train.tar: one tar a class).
* **WebDataset**: members of one name up to the first dot belong together. `.cls` holds the label, a
  number or a class name; `.json` becomes metadata, and its `label` or `cls` the label if there is
  no `.cls`; other members than images are not used.
* **Splits**, where no folders in them tell, go by the word train, val, validation or test in the
  names of the tars; without one, all is train.
* **Labels** as numbers need names: from `--classes` or a `classes.json` among the tars; else the
  numbers name themselves.

Nothing is unpacked onto a disk: members are read where they lie, by their place in the file. Links
and devices in an archive are not followed, and a name that points out of it is a reject. Archives
stay in sequence: see `Listing.runs`. Compressed tars have no places to read from and are refused.
"""

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self, cast

from tokenstore.errors import SourceError
from tokenstore.sources.base import (
    NOTHING_SAID,
    Item,
    Listing,
    Rejected,
    Source,
    SourceOptions,
    printable,
    reject_repeated_keys,
)
from tokenstore.sources.class_file import CLASS_FILE, class_names
from tokenstore.sources.files import EXTENSIONS, SPLITS
from tokenstore.sources.layout import Named, into_splits, labelled
from tokenstore.sources.places import Place

COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".7z", ".rar")
SIDECARS = (".cls", ".json")
MOST_SIDECAR = 1 << 20  # bytes; a label or a line of metadata is smaller
NESTED = 2  # tars in tars
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
SPLIT_WORDS = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}
LABEL_FIELDS = ("label", "cls", "class")


class Member(NamedTuple):
    """A regular file in a tar: its path through all tars, and where its bytes lie."""

    path: str
    start: int
    size: int


class Scanned(NamedTuple):
    """What one archive holds."""

    images: list[Named]
    rejects: list[tuple[str, str]]  # path, reason
    classes: tuple[str, ...] | None
    is_webdataset: bool


class Tar(Source):
    """Tars and WebDataset shards; see the rules above."""

    kind = "tar"

    def __init__(self, place: Place, names: Sequence[str], classes: tuple[str, ...] | None) -> None:
        """Read these tars at a place; `classes` are the declared names."""
        self.place, self.names, self.declared = place, tuple(names), classes

    @classmethod
    def accepts(cls, place: str, options: SourceOptions) -> bool:
        """A tar, a pattern of tars, or a local folder that holds nothing but tars and notes."""
        if place.endswith((".tar", *COMPRESSED)):
            return True
        root = Path(place)
        if not root.is_dir():
            return False
        found = [file.name for file in Place(place).files()]
        others = [name for name in found if name.lower().endswith(EXTENSIONS)]
        return any(name.endswith((".tar", *COMPRESSED)) for name in found) and not others

    @classmethod
    def open(cls, place: str, options: SourceOptions = NOTHING_SAID) -> Self:
        """See `Source.open`."""
        options.refuse_others(cls.kind, "classes")
        if place.endswith(COMPRESSED):
            raise SourceError(
                f"'{place}' is compressed, so its images have no place to be read from. Decompress "
                "it to a plain .tar first; images in it are compressed already."
            )
        folder, names = _tars(place)
        declared = None
        if options.classes is not None:
            declared = class_names(options.classes.read_bytes(), str(options.classes))
        return cls(folder, names, declared)

    def listing(self) -> Listing:
        """See `Source.listing`."""
        if not self.names:
            raise SourceError(f"no tar in '{self.place.url}'.")
        scanned = {name: self._scan(name) for name in self.names}
        declared = self.declared or next((s.classes for s in scanned.values() if s.classes), None)
        declared = declared or self._class_file()
        items, classes = labelled(_by_split(scanned), declared, self.place.url)
        rejects = [
            Rejected(_split_of(name) or "train", _key(path), printable(path), reason)
            for name, found in scanned.items()
            for path, reason in found.rejects
        ]
        kept: dict[str, tuple[Item, ...]] = {}
        for split, some in items.items():
            kept[split], repeated = reject_repeated_keys(split, some)
            rejects += repeated
        if not any(kept.values()):
            raise SourceError(
                f"no images in the {len(self.names)} tars of '{self.place.url}': looked for "
                f"{', '.join(EXTENSIONS)} files in them."
            )
        runs = {split: _runs(some) for split, some in kept.items()}  # inner tars are archives too
        return Listing(kept, classes, tuple(rejects), runs=runs)

    def read(self, item: Item) -> bytes:
        """See `Source.read`."""
        archive = item.path.partition(".tar/")[0] + ".tar"
        return self.place.read(archive, item.start, item.size)

    def _class_file(self) -> tuple[str, ...] | None:
        found = [file.name for file in self.place.files()] if len(self.names) > 1 else []
        if CLASS_FILE not in found:
            return None
        return class_names(self.place.read(CLASS_FILE), f"{self.place.url}/{CLASS_FILE}")

    def _scan(self, name: str) -> Scanned:
        """List one tar: images with what stands beside them."""
        images, rejects, sidecars = [], [], dict[str, dict[str, bytes]]()
        classes = None
        with self.place.open(name) as file:
            for member, problem in _members(file, name, 0, 0):
                inside = member.path.removeprefix(f"{name}/")
                suffix = _suffix(inside)
                if suffix in EXTENSIONS:
                    if problem:
                        rejects.append((member.path, problem))
                    else:
                        item = Item("", member.path, None, member.size, start=member.start)
                        images.append(Named(inside, item))
                elif problem is None and suffix in SIDECARS and member.size <= MOST_SIDECAR:
                    content = _at(file, member)
                    if inside.rpartition("/")[2] == CLASS_FILE:
                        classes = class_names(content, f"{self.place.url}/{member.path}")
                    else:
                        sidecars.setdefault(_base(inside), {})[suffix] = content
        bases = {_base(image.path) for image in images}
        is_webdataset = bool(bases & sidecars.keys())
        if is_webdataset:
            images = [_described(image, sidecars.get(_base(image.path), {})) for image in images]
        return Scanned(images, rejects, classes, is_webdataset)


def _tars(place: str) -> tuple[Place, list[str]]:
    """The folder of the tars, and their names in byte order."""
    braces = BRACES.search(place.rpartition("/")[2])
    if braces:
        folder, name = Place(place).parent()
        first, last = braces.groups()
        numbers = (f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1))
        return folder, [name.replace(braces.group(), number) for number in numbers]
    if place.endswith(".tar") and "*" not in place:
        return Place(place).parent()[0], [Place(place).parent()[1]]
    if "*" in place.rpartition("/")[2]:
        folder, pattern = Place(place).parent()
        return folder, [f.name for f in folder.files() if fnmatch(f.name, pattern)]
    folder = Place(place)
    return folder, [file.name for file in folder.files() if file.name.endswith(".tar")]


def _members(
    file: BinaryIO, outer: str, at: int, depth: int
) -> Iterator[tuple[Member, str | None]]:
    """Every file of a tar that begins at byte `at`, and why it must not be used, if so."""
    file.seek(at)
    inner = []
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for entry in archive:
                path, problem = f"{outer}/{entry.name}", _problem(entry)
                member = Member(path, entry.offset_data, entry.size)
                if entry.isdir():
                    continue
                if entry.name.endswith(".tar") and entry.isreg() and depth < NESTED:
                    inner.append(member)
                else:
                    yield member, problem
            _check_end(file, archive, outer)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise SourceError(f"'{outer}' is no whole tar ({error}). Fetch it anew.") from error
    for member in inner:
        yield from _members(file, member.path.removesuffix(".tar"), member.start, depth + 1)


def _check_end(file: BinaryIO, archive: tarfile.TarFile, where: str) -> None:
    """Refuse a tar that ends without its zeros: tarfile takes damage for the end."""
    end = cast(int, cast(Any, archive).offset)
    file.seek(end)
    rest = file.read(tarfile.BLOCKSIZE)
    if rest != bytes(tarfile.BLOCKSIZE):
        raise SourceError(
            f"'{where}' does not end at byte {end}, where its last whole member does: it was cut "
            "short or is damaged there. Fetch it anew."
        )


def _problem(entry: tarfile.TarInfo) -> str | None:
    if entry.issym() or entry.islnk():
        return f"a link to '{printable(entry.linkname)}', which is not followed in an archive"
    if not entry.isreg() or entry.issparse():
        return "no ordinary file in its archive"
    if entry.name.startswith("/") or ".." in entry.name.split("/"):
        return "its name points out of its archive"
    return None


def _at(file: BinaryIO, member: Member) -> bytes:
    here = file.tell()
    file.seek(member.start)
    content = file.read(member.size)
    file.seek(here)
    return content


def _suffix(path: str) -> str:
    dot = path.rpartition("/")[2].rfind(".")
    return path.rpartition("/")[2][dot:].lower() if dot >= 0 else ""


def _base(path: str) -> str:
    """WebDataset's name of a sample: the path up to the first dot of its last part."""
    folder, slash, name = path.rpartition("/")
    return folder + slash + name.partition(".")[0]


def _key(path: str) -> str:
    folder, slash, name = path.partition(".tar/")[2].rpartition("/")
    return printable(folder + slash + (name.rpartition(".")[0] or name))


def _described(image: Named, beside: dict[str, bytes]) -> Named:
    """An image of a WebDataset shard, with the label and the metadata beside it."""
    label: str | int | None = None
    facts: dict[str, Any] | None = None
    where = printable(image.item.path)
    if ".json" in beside:
        try:
            facts = json.loads(beside[".json"])
        except ValueError as error:
            raise SourceError(f"the .json of '{where}' is no JSON: {error}.") from error
        if not isinstance(facts, dict):
            raise SourceError(f"the .json of '{where}' is no object.")
        label = next((facts[name] for name in LABEL_FIELDS if name in facts), None)
        label = label if isinstance(label, str | int) and not isinstance(label, bool) else None
    if ".cls" in beside:
        text = beside[".cls"].decode("utf-8", "replace").strip()
        label = int(text) if re.fullmatch(r"\d{1,9}", text) else text
    meta = None
    if facts is not None:
        meta = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return image._replace(label=label, item=image.item._replace(meta=meta))


def _by_split(scanned: dict[str, Scanned]) -> dict[str, list[Named]]:
    """Images by split with their keys: by the folders in the tars, else by the tars' names."""
    splits = into_splits([image for found in scanned.values() for image in found.images])
    told = {name: _split_of(name) or "train" for name in scanned}
    if set(splits) == {"train"}:
        splits = {}
        for name, found in scanned.items():
            splits.setdefault(told[name], []).extend(into_splits(found.images)["train"])
    order = [split for split in SPLITS if split in splits]
    by_base = any(found.is_webdataset for found in scanned.values())
    return {split: [_keyed(image, by_base) for image in splits[split]] for split in order}


def _keyed(image: Named, by_base: bool) -> Named:
    folder, slash, name = image.path.rpartition("/")
    stem = name.partition(".")[0] if by_base else name.rpartition(".")[0]
    key = printable(folder + slash + (stem or name))
    return image._replace(item=image.item._replace(key=key))


def _runs(items: Sequence[Item]) -> tuple[int, ...]:
    """How many images in a row come from one archive."""
    archives = groupby(items, lambda item: item.path.rpartition("/")[0])
    return tuple(len(list(some)) for _, some in archives)


def _split_of(name: str) -> str | None:
    """`imagenet1k-validation-00.tar -> val`; None where no word of the name tells."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)


PLUGIN = Tar
