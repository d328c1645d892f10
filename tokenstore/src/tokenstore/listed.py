"""Files that a manifest lists: whether they are there, and those that a reader loads whole.

Vocabulary and codec tables are compared with length and hash before a byte of them is used, and
what comes out fits what the manifest says of it. Shards are not loaded whole; they are for `shard`.
"""

import hashlib

import safetensors.numpy
from safetensors import SafetensorError

from tokenstore import registry
from tokenstore.codecs.base import Codec, CodecSpec
from tokenstore.entries import FileEntry, TableSet, VocabularyEntry
from tokenstore.errors import CodecError, CorruptStore, FormatTooNew, UnknownName
from tokenstore.manifest import Manifest
from tokenstore.storage import Storage
from tokenstore.vocabulary import Vocabulary

SHOWN = 10  # names in a message; `tokenstore verify` tells all


def check_whole(storage: Storage, manifest: Manifest) -> None:
    """Refuse a store of which files are missing or cut, as a copy that broke off leaves it.

    A bucket is not asked, since that would cost a request a file; there the reader that first needs
    a missing file says so.

    Raises:
        CorruptStore: names the files, and says how many they are.
    """
    if not storage.at_hand:
        return
    files, missing, changed = manifest.files(), [], []
    for file in files:
        try:
            size = storage.size(file.name)
        except FileNotFoundError:
            missing.append(file.name)
        else:
            if size != file.bytes:
                changed.append(f"{file.name} with {size} of {file.bytes} bytes")
    if missing or changed:
        complaints = [_some("missing", missing), _some("of another length", changed)]
        raise CorruptStore(
            f"'{storage.url}' is not whole: of its {len(files)} files "
            f"{' and '.join(filter(None, complaints))}. Copy them again from where it came from."
        )


def _some(what: str, names: list[str]) -> str:
    """`2 are missing (a, b)`; nothing for no names."""
    if not names:
        return ""
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    listed = ", ".join(names[:SHOWN])
    return f"{len(names)} {'is' if len(names) == 1 else 'are'} {what} ({listed}{more})"


def read_listed(storage: Storage, entry: FileEntry) -> bytes:
    """A whole file that a manifest lists.

    Raises:
        CorruptStore: it is missing or differs from what the manifest says.
    """
    where = f"{storage.url}/{entry.name}"
    try:
        content = storage.read(entry.name)
    except FileNotFoundError as error:
        raise CorruptStore(f"{where} is missing; the store is not whole") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != entry.sha256 or len(content) != entry.bytes:
        raise CorruptStore(
            f"{where} has {len(content)} bytes and SHA-256 {digest}, the manifest says "
            f"{entry.bytes} and {entry.sha256}"
        )
    return content


def load_vocabulary(storage: Storage, entry: VocabularyEntry) -> Vocabulary:
    """The vocabulary of a store.

    Raises:
        CorruptStore: the file is missing, damaged, or does not fit the manifest.
    """
    where = f"{storage.url}/{entry.file.name}"
    vocabulary = Vocabulary.from_bytes(read_listed(storage, entry.file), where)
    codebook = vocabulary.codebook
    found = (len(vocabulary), None if codebook is None else codebook.shape[1])
    if found != (entry.size, entry.dimension):
        raise CorruptStore(
            f"{where} holds {found[0]} ids of dimension {found[1]}, "
            f"the manifest says {entry.size} and {entry.dimension}"
        )
    return vocabulary


def load_codec(storage: Storage, table_set: TableSet, grid: tuple[int, ...]) -> Codec:
    """The codec of a table set, for grids of this shape.

    Raises:
        FormatTooNew: there is no such codec here.
        CorruptStore: its tables are missing, damaged, or not what the codec needs.
    """
    kind = find_codec(table_set, storage.url)
    spec = CodecSpec(table_set.vocabulary_size, grid)
    if table_set.file is None:
        return kind.from_tables({}, spec)
    where = f"{storage.url}/{table_set.file.name}"
    content = read_listed(storage, table_set.file)
    try:
        return kind.from_tables(safetensors.numpy.load(content), spec)
    except (SafetensorError, ValueError, KeyError, CodecError) as error:
        raise CorruptStore(f"{where} holds no tables of codec {kind.name}: {error}") from error


def find_codec(table_set: TableSet, url: str) -> type[Codec]:
    """The codec that a table set names.

    Raises:
        FormatTooNew: there is none of that name here.
    """
    try:
        found: type[Codec] = registry.find("tokenstore.codecs", table_set.codec)
    except UnknownName as error:
        raise FormatTooNew(
            f"'{url}' is written with the codec '{table_set.codec}', this tokenstore has "
            f"{', '.join(error.known)}. Install a newer tokenstore, or the package of that codec."
        ) from error
    return found
