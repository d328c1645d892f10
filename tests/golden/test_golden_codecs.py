"""Frozen payloads of the entropy codecs: read by today's decoder, written by today's encoder."""

import hashlib

import numpy as np
import pytest

from tests.golden.golden_codecs import CASES, FOLDER, codec, ranks, read
from tests.tokenstore.slow_ans import SlowContext, SlowRans

DIGESTS = {
    "context-tail": "5c152306a426627f25a16f3a4c3f854f49c3fbba8446618fedef5ecd1058416a",
    "context": "2c5b72103e6e4456fef7418d34b3da0ab8ec6dc2b8567c244b49f3d10f92c1de",
    "rans-wide": "17148bd93edc6e4bd45b96145d709a9105551f81f9f3585b4eef80c59da3a90b",
    "rans": "d4ea573a9706bb4dd7131eb572a5e0ae21f542eaca6a467e86d60fb6c9a93748",
}


@pytest.mark.parametrize("name", CASES)
def test_frozen_payloads_are_read_and_written(name):
    assert (
        hashlib.sha256((FOLDER / f"{name}.safetensors").read_bytes()).hexdigest() == DIGESTS[name]
    )
    shipped, grids, payloads, ends = read(name)
    assert np.array_equal(grids, ranks(name))
    found, out = codec(name, shipped), np.zeros_like(grids)
    found.decode(payloads, np.append(0, ends)[:-1], ends, out)
    assert np.array_equal(out, grids)
    coded = found.encode(grids)
    assert coded.data.tobytes() == payloads.tobytes()
    assert coded.ends.tolist() == ends.tolist()


@pytest.mark.parametrize("name", ["context-tail", "rans-wide"])
def test_the_slow_twins_write_the_frozen_payloads(name):
    shipped, grids, payloads, ends = read(name)
    kind, size, grid = CASES[name]
    slow = {"rans": SlowRans, "context": SlowContext}[kind](shipped, size, grid)
    written = b"".join(slow.encode(some) for some in grids[:2])
    assert written == payloads[: ends[1]].tobytes()
