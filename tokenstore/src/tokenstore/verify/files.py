"""The files of a store: the chain of manifests, exactly the files they list, and the small ones."""

import hashlib
import io
from collections.abc import Iterator

import numpy as np

from tokenstore.errors import TokenstoreError
from tokenstore.listed import read_listed
from tokenstore.manifest import NAME, FileEntry, Manifest, parse_manifest, version_name
from tokenstore.reader import Store
from tokenstore.storage import Storage
from tokenstore.verify.findings import Findings

CHUNK = 1 << 23  # bytes hashed at a time


def check_files(store: Store, findings: Findings, *, hash_shards: bool) -> None:
    """Exactly the files that the manifests list are there, with their lengths and hashes."""
    listed = {file.name: file for manifest in _chain(store, findings) for file in manifest.files()}
    versions = {version_name(version) for version in range(store.manifest.version + 1)}
    wanted, there = {*listed, *versions, NAME}, set(store.storage.names())
    for name in sorted(wanted - there):
        findings.add(name, "file", "to be there", "nothing")
    for name in sorted(there - wanted):
        findings.add(name, "file", "only what the manifest lists", "a file that it does not")
    for name in sorted(there & set(listed)):
        entry, size = listed[name], store.storage.size(name)
        if size != entry.bytes:
            findings.add(name, "length", f"{entry.bytes} bytes", f"{size} bytes")
        elif hash_shards or not name.endswith((".tar", ".index")):
            digest = _sha256(store.storage, entry)
            if digest != entry.sha256:
                findings.add(name, "SHA-256", entry.sha256, digest)


def check_vocabulary(store: Store, findings: Findings) -> None:
    """The vocabulary fits the manifest, and files that can have successors carry their hash."""
    manifest = store.manifest
    hashed: list[tuple[str, FileEntry | None]] = [("vocabulary", manifest.vocabulary.file)]
    hashed += [("tables", tables.file) for tables in manifest.table_sets]
    for kind, entry in [*hashed, ("rejects", manifest.rejects.file)]:
        if entry is not None and not entry.name.startswith(f"{kind}-{entry.sha256[:16]}."):
            findings.add(entry.name, "name", f"{kind}-{entry.sha256[:16]}", entry.name)
    place = manifest.vocabulary.file.name
    try:
        entropy = store.vocabulary.entropy
    except TokenstoreError as error:
        findings.error(place, error)
        return
    if entropy != manifest.vocabulary.entropy:
        findings.add(place, "entropy", f"{manifest.vocabulary.entropy} bit", f"{entropy} bit")


def check_rejects(store: Store, findings: Findings) -> None:
    """The list of rejects has as many rows as the manifest counts."""
    entry = store.manifest.rejects
    rows = 0
    if entry.file is not None:
        import pyarrow
        import pyarrow.parquet

        try:
            content = io.BytesIO(read_listed(store.storage, entry.file))
            rows = pyarrow.parquet.read_metadata(content).num_rows
        except (TokenstoreError, pyarrow.ArrowException, OSError) as error:
            findings.error(entry.file.name, error)
            return
    if rows != entry.count:
        findings.add(entry.file.name if entry.file else NAME, "rejects", entry.count, rows)


def _chain(store: Store, findings: Findings) -> Iterator[Manifest]:
    """The store's manifest and its ancestors, each named by the hash that its child gives."""
    yield store.manifest
    expected = store.manifest.hash
    for version in range(store.manifest.version, -1, -1):
        name = version_name(version)
        try:
            manifest = parse_manifest(store.storage.read(name), name)
        except FileNotFoundError:
            return  # reported as missing
        except TokenstoreError as error:
            findings.error(name, error)
            return
        if (manifest.hash, manifest.version) != (expected, version):
            findings.add(name, "hash", expected, f"{manifest.hash} of version {manifest.version}")
            return
        yield manifest
        expected = manifest.parent


def _sha256(storage: Storage, entry: FileEntry) -> str:
    digest = hashlib.sha256()
    for start in range(0, entry.bytes, CHUNK):
        end = min(start + CHUNK, entry.bytes)
        fetched = storage.fetch(entry.name, np.array([start]), np.array([end]))
        digest.update(fetched.content[int(fetched.starts[0]) : int(fetched.ends[0])].tobytes())
    return digest.hexdigest()
