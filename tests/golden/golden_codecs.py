"""Golden payloads of the entropy codecs: tables and grids made by formulas, and their frozen bytes.

`tests/golden/codecs/NAME.safetensors` holds the shipped tables, the ranks and what they were coded
as. `python -m tests.golden.golden_codecs` writes them anew, which needs a line in CHANGELOG.md.
"""

from pathlib import Path

import numpy as np
import safetensors.numpy
import zstandard

from tokenstore import registry
from tokenstore.codecs.base import CodecSpec

FOLDER = Path(__file__).parent / "codecs"
# name of the file: codec, vocabulary, grid
CASES = {
    "rans": ("rans", 700, (16, 16)),
    "rans-wide": ("rans", 40_000, (2, 3, 5)),
    "context": ("context", 700, (16, 16)),
    "context-tail": ("context", 5000, (2, 3, 5)),
}


def ranks(name):
    """Five grids, skewed, with both ends of the vocabulary in them."""
    _, size, grid = CASES[name]
    places = np.arange(5 * int(np.prod(grid)), dtype=np.int64)
    drawn = (places * places * 31 + 17 * places) % 9973
    grids = (drawn * drawn * size // 9973**2).reshape(5, *grid)
    grids[0] = size - 1
    return grids.astype(np.uint16)


def frequencies(size):
    """A table for `rans` of that many ranks, by formula."""
    made = np.maximum(1, 3000 // np.arange(1, size + 1))
    made[0] += (1 << int(made.sum()).bit_length()) - made.sum()
    return {"frequencies": made.astype(np.int32)}


def tables(name):
    """Shipped tables by formula: no fitting, so no floats."""
    kind, size, _ = CASES[name]
    if kind == "rans":
        return frequencies(size)
    symbols = np.arange(min(size, 4096))
    clusters = np.stack([symbols % 3, symbols // 7 % 3]).astype(np.uint8)
    popularity = (-symbols // 6).astype(np.int16)
    weights = ((symbols + 11 * np.arange(8)[:, None]) * 7 % 61 - 30).astype(np.int8)
    frame = zstandard.ZstdCompressor(level=19).compress(weights.tobytes())
    made = {"clusters": clusters, "popularity": popularity}
    made["weights"] = np.frombuffer(frame, np.uint8)
    if size > 4096:
        tail = np.full(size - 4095, 1000, np.int32)
        tail[0] += (1 << 20) - tail.sum()
        made["tail"] = tail
    return made


def codec(name, shipped):
    kind, size, grid = CASES[name]
    return registry.find("tokenstore.codecs", kind).from_tables(shipped, CodecSpec(size, grid))


def write(folder):
    for name in CASES:
        coded = codec(name, tables(name)).encode(ranks(name))
        content = {"ranks": ranks(name), "payloads": coded.data, "ends": coded.ends}
        content |= {f"table.{key}": table for key, table in tables(name).items()}
        (folder / f"{name}.safetensors").write_bytes(safetensors.numpy.save(content))


def read(name):
    """Shipped tables, ranks, payloads and ends as they were frozen."""
    content = safetensors.numpy.load((FOLDER / f"{name}.safetensors").read_bytes())
    shipped = {key[6:]: content[key] for key in content if key.startswith("table.")}
    return shipped, content["ranks"], content["payloads"], content["ends"]


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    write(FOLDER)
