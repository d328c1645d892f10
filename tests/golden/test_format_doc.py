"""docs/format.md is true: its bytes are those of the golden store, its reader reads that store."""

import re
from pathlib import Path

import numpy as np

import tokenstore
from tests.golden.golden_store import GOLDEN, ids
from tests.small_store import Small, write_small_store
from tokenstore.codecs.escape import escape
from tokenstore.entries import KINDS
from tokenstore.manifest import Manifest

TEXT = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")


def test_the_printed_index_is_the_golden_one():
    lines = re.findall(r"^[0-9a-f]{4}  ((?:[0-9a-f]{8} ?)+)$", TEXT, re.MULTILINE)
    assert bytes.fromhex("".join(lines)) == (GOLDEN / "val-000000.index").read_bytes()


def test_the_printed_record_is_the_golden_one():
    part = tokenstore.open(GOLDEN)["train"].shards.open(0).index.block("ranks", 0)
    tar = (GOLDEN / "train-000000.tar").read_bytes()
    record = tar[part.base : part.base + int(part.ends[0])]
    (begin,) = re.findall(r"payload begins `([0-9a-f ]+)`", TEXT)
    (check,) = re.findall(r"last two bytes `([0-9a-f ]+)`", TEXT)
    assert record.startswith(bytes.fromhex(begin))
    assert record.endswith(bytes.fromhex(check))


def test_the_printed_escape_codes_are_right():
    pairs = re.findall(r"(\d+) -> ((?:[0-9a-f]{2} ?)+)", TEXT)
    assert len(pairs) == 5
    for rank, code in pairs:
        assert escape(np.array([[[int(rank)]]], np.uint16))[0].tobytes() == bytes.fromhex(code)


def test_the_printed_reader_reads_stores(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names = {}
    exec(code, names)
    for sample in range(3):
        assert np.array_equal(names["read_ids"](GOLDEN, "train", sample), ids("train", 3)[sample])
    written = write_small_store(tmp_path, Small(codecs=("zstd",)))
    for sample in range(23):
        expected = written.vocabulary.ids[written.truth["train"].ranks[sample]]
        assert np.array_equal(names["read_ids"](tmp_path, "train", sample), expected)


def test_every_member_and_column_is_described():
    for member in Manifest.model_fields:
        assert member == "hash" or f"| `{member}` |" in TEXT, member
    for column, kind in KINDS.items():
        assert f"| `{column}` | {kind} |" in TEXT
