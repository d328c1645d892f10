"""Feed random and forged bytes to everything that reads a store; a program of its own.

    python -X faulthandler -m tests.hostile.fuzz records --examples 2000

Hypothesis draws the bytes, the same ones each time. Hashes and checks are made to fit, so that what
lies behind them is reached: a forger can get that far, an accident hardly. What comes back may then
be other data, but it must be data of the right kind, or a TokenstoreError: no other exception, no
crash, no endless loop. test_fuzz.py starts this as a process, so that a crash shows.
"""

import faulthandler
import functools
import hashlib
import json
import tempfile
from typing import Any

import click
import numpy as np
import safetensors.numpy
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile.damage import Memory, everything
from tests.small_store import Small, write_small_store
from tokenstore import checks, registry
from tokenstore.codecs.base import CodecSpec
from tokenstore.columns import mask_of, packed_strings
from tokenstore.errors import TokenstoreError
from tokenstore.index import HEADER, page_dtype, seed_of
from tokenstore.listed import load_codec
from tokenstore.manifest import NAME, parse_manifest
from tokenstore.reader import Store
from tokenstore.verify import verify_store
from tokenstore.vocabulary import Vocabulary

PATIENCE = 240.0  # seconds for a whole run, a fraction of which it takes
CODECS = tuple(registry.names("tokenstore.codecs"))
SMALL = Small(counts=(("train", 3 * len(CODECS)),), grid=(2, 2), codes=4, block=2, shard=3,
              codecs=CODECS, classes=2, rejects=0)  # fmt: skip
SPEC = CodecSpec(300, (4, 3))

noise = st.binary(max_size=400)
numbers = st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 4096))
arrays = st.builds(
    lambda dtype, shape, seed: _array(dtype, shape, seed),
    st.sampled_from(["u1", "u2", "u4", "i4", "i8", "f4", "f8"]),
    st.lists(st.integers(0, 9), max_size=3),
    st.integers(0, 99),
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 2**70), st.floats(), st.text(max_size=9)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def _array(dtype: str, shape: list[int], seed: int) -> np.ndarray:
    size = int(np.prod(shape, dtype=np.int64))
    raw = np.random.default_rng(seed).bytes(size * np.dtype(dtype).itemsize)
    return np.frombuffer(raw, dtype).reshape(shape)


@functools.cache
def files() -> dict[str, bytes]:
    """A small store with every codec, in memory."""
    with tempfile.TemporaryDirectory() as folder:
        storage = write_small_store(folder, SMALL).store.storage
        return {name: storage.read(name) for name in storage.names()}


@functools.cache
def sound() -> Store:
    return Store(Memory(files()))


def survives(read: Any, *arguments: Any) -> Any:
    """What a reader makes of damage: data, or an error that is ours."""
    try:
        return read(*arguments)
    except TokenstoreError as error:
        assert str(error)
        return None


def all_of(changed: dict[str, bytes]) -> None:
    """Read and verify a store whose files were changed."""
    survives(lambda: everything(Store(Memory({**files(), **changed}))))
    survives(lambda: list(map(str, verify_store(Memory({**files(), **changed})))))


@given(noise)
def manifest_bytes(content: bytes) -> None:
    survives(parse_manifest, content, "place")


@given(st.data())
def manifest(data: st.DataObject) -> None:
    """One member of the manifest is anything that JSON can say, and the hash fits."""
    raw = json.loads(files()[NAME])
    del raw["hash"]
    place: Any = raw
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if not isinstance(inner, (dict, list)) or not inner or data.draw(st.integers(0, 4)) == 0:
            break
        place = inner
    place[key] = data.draw(st.one_of(json_values, numbers, st.integers(0, 9)))
    try:
        body = json.dumps(raw, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return
    digest = hashlib.sha256(body).hexdigest()
    all_of({NAME: body[:-1] + f',"hash":"{digest}"}}\n'.encode()})


def indexes(split: str = "train") -> list[Any]:
    return list(sound().manifest.splits[split].shards)


@given(st.sampled_from(range(len(CODECS))), noise)
def index_bytes(number: int, content: bytes) -> None:
    name = indexes()[number].index.name
    length = len(files()[name])
    all_of({name: (content + files()[name][len(content) :])[:length]})


@given(st.data())
def index(data: st.DataObject) -> None:
    """Any numbers in a page whose hash fits: ranges overlap, leave the shard, run backwards."""
    entry = data.draw(st.sampled_from(indexes()))
    dtype = page_dtype(sound().manifest.splits["train"].columns, SMALL.block)
    content = bytearray(files()[entry.index.name])
    page = np.frombuffer(content, dtype, 1, HEADER.itemsize)
    names = [name for name in dtype.names or () if name != "check"]
    for name in data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=4)):
        if name.endswith(".ends"):
            page[name][0] = data.draw(
                st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2).map(sorted)
            )
        else:
            page[name][0] = data.draw(numbers)
    if data.draw(st.booleans()):  # sizes that add up reach further
        for column in ("ranks", "mask"):
            page[f"{column}.ends"][0, -1] = min(int(page[f"{column}.size"][0]), 2**32 - 1)
    page["check"] = xxhash.xxh3_64_intdigest(page.tobytes()[8:], seed_of(entry.shard.sha256))
    all_of({entry.index.name: bytes(content)})


@given(st.one_of(noise, st.dictionaries(st.text(max_size=9), arrays, max_size=3)))
def vocabulary(content: Any) -> None:
    survives(Vocabulary.from_bytes, _saved(content), "place")


@given(arrays, arrays, st.one_of(st.none(), arrays))
def vocabulary_arrays(ids: np.ndarray, counts: np.ndarray, codebook: np.ndarray | None) -> None:
    """Arrays of the right names, often of the right types."""
    named = {"ids": ids, "counts": counts}
    if codebook is not None:
        named["codebook"] = codebook
    for typed in (named, {"ids": _as(ids, "i4"), "counts": _as(counts, "i8")}):
        found = survives(Vocabulary.from_bytes, _saved(typed), "place")
        if found is not None:
            assert len(set(found.ids.tolist())) == len(found.ids) > 0
            survives(found.to_ids, np.arange(9))
            survives(found.to_ranks, np.arange(9))
            assert found.entropy >= 0


@given(st.sampled_from(CODECS), st.data())
def tables(codec: str, data: st.DataObject) -> None:
    """Tables of any content, under a hash that fits; then a payload decoded with them."""
    real = fitted(codec).tables()
    named = {
        name: data.draw(st.one_of(st.just(_scrambled(table, data)), arrays))
        for name, table in real.items()
    }
    if not named or data.draw(st.integers(0, 9)) == 0:
        named = data.draw(st.dictionaries(st.text(max_size=9), arrays, max_size=3))
    content = data.draw(st.one_of(st.just(_saved(named)), noise))
    digest = hashlib.sha256(content).hexdigest()
    kind = type(sound().manifest.table_sets[0])
    file = sound().manifest.vocabulary.file.model_copy(
        update={"name": "t", "bytes": len(content), "sha256": digest}
    )
    table_set = kind(codec=codec, vocabulary_size=SPEC.vocabulary_size, file=file)
    made = survives(load_codec, Memory({"t": content}), table_set, SPEC.grid)
    if made is not None:
        decodes(made, data.draw(payload_of(codec)))
        encodes(made)


@given(st.sampled_from(CODECS), st.data())
def records(codec: str, data: st.DataObject) -> None:
    """Any payload, under a check that fits."""
    decodes(fitted(codec), data.draw(payload_of(codec)))


@given(st.data())
def shards(data: st.DataObject) -> None:
    """Any payload in the shard itself, with its check, its block hash and its page in order."""
    entry = data.draw(st.sampled_from(indexes()))
    number = indexes().index(entry)
    dtype = page_dtype(sound().manifest.splits["train"].columns, SMALL.block)
    tar, content = bytearray(files()[entry.shard.name]), bytearray(files()[entry.index.name])
    page = np.frombuffer(content, dtype, 1, HEADER.itemsize)
    column = data.draw(st.sampled_from(["ranks", "mask", "key", "meta", "label", "view"]))
    base, size = int(page[f"{column}.base"][0]), int(page[f"{column}.size"][0])
    if column in ("ranks", "mask"):
        shard = sound()["train"].shards.open(number)
        salt = shard.salt if column == "ranks" else checks.salt(None)
        ends = page[f"{column}.ends"][0].astype(np.int64) - 2 * np.arange(1, 3)
        payloads = np.frombuffer(_filled(data, int(ends[-1])), np.uint8)
        framed, _ = checks.frame(payloads, ends, shard.first, salt)
        tar[base : base + size] = framed.tobytes()
    else:
        tar[base : base + size] = _filled(data, size)
    page[f"{column}.hash"] = xxhash.xxh3_64_intdigest(bytes(tar[base : base + size]))
    page["check"] = xxhash.xxh3_64_intdigest(page.tobytes()[8:], seed_of(entry.shard.sha256))
    all_of({entry.shard.name: bytes(tar), entry.index.name: bytes(content)})


@given(noise, st.integers(0, 9))
def columns(content: bytes, count: int) -> None:
    survives(packed_strings, content, count, "place")
    survives(mask_of, content, "place")


@functools.cache
def fitted(codec: str) -> Any:
    rng = np.random.default_rng(0)
    skewed = (rng.random((900, *SPEC.grid)) ** 4 * SPEC.vocabulary_size).astype(np.uint16)
    return registry.find("tokenstore.codecs", codec).fit(skewed, SPEC, images=10**7)


@functools.cache
def real_payload(codec: str) -> bytes:
    rng = np.random.default_rng(1)
    grid = (rng.random((1, *SPEC.grid)) ** 4 * SPEC.vocabulary_size).astype(np.uint16)
    return bytes(fitted(codec).encode(grid).data.tobytes())


def payload_of(codec: str) -> st.SearchStrategy[bytes]:
    """Noise, or a real payload cut, lengthened and with some bytes changed."""

    def changed(cut: int, more: bytes, edits: list[tuple[int, int]]) -> bytes:
        content = bytearray(real_payload(codec)[: max(len(real_payload(codec)) - cut, 0)] + more)
        for place, value in edits:
            if content:
                content[place % len(content)] = value
        return bytes(content)

    edits = st.lists(st.tuples(st.integers(0, 99), st.integers(0, 255)), max_size=4)
    return st.one_of(noise, st.builds(changed, st.integers(0, 5), st.binary(max_size=3), edits))


def decodes(codec: Any, payload: bytes) -> None:
    """To ranks of the vocabulary, or an error that names the row; the good neighbour first."""
    data = np.frombuffer(payload, np.uint8)
    out = np.zeros((1, *SPEC.grid), np.uint16)

    def decode() -> None:
        codec.decode(data, np.zeros(1, np.int64), np.array([len(data)]), out)
        assert int(out.max()) < SPEC.vocabulary_size

    survives(decode)


def encodes(codec: Any) -> None:
    """Forged tables that were accepted must also serve the other direction, or refuse."""
    grid = np.zeros((1, *SPEC.grid), np.uint16)
    survives(codec.encode, grid)


def _filled(data: st.DataObject, size: int) -> bytes:
    return data.draw(st.binary(min_size=size, max_size=size))


def _scrambled(table: np.ndarray, data: st.DataObject) -> np.ndarray:
    """A real table with a few elements exchanged for any others."""
    changed = table.copy()
    flat = changed.reshape(-1).view(np.uint8)
    for place, value in data.draw(
        st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 255)), min_size=1, max_size=4)
    ):
        if len(flat):
            flat[place % len(flat)] = value
    return changed


def _as(array: np.ndarray, dtype: str) -> np.ndarray:
    return np.frombuffer(array.tobytes(), np.int8).astype(dtype)


def _saved(content: Any) -> bytes:
    if isinstance(content, bytes):
        return content
    return safetensors.numpy.save({name: np.ascontiguousarray(a) for name, a in content.items()})


TARGETS = {
    f.__name__: f
    for f in (manifest_bytes, manifest, index_bytes, index, vocabulary, vocabulary_arrays, tables,
              records, shards, columns)
}  # fmt: skip


@click.command()
@click.argument("targets", type=click.Choice(sorted(TARGETS)), nargs=-1)
@click.option("--examples", default=100, show_default=True)
def main(targets: tuple[str, ...], examples: int) -> None:
    """Feed random bytes to some readers, or to all of them."""
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    bounds = settings(
        max_examples=examples, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    for target in targets or TARGETS:
        click.echo(target)
        bounds(TARGETS[target])()


if __name__ == "__main__":
    main()
