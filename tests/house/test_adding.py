"""The examples of docs/adding.md are plugins that work, as whoever copies them would expect."""

import re
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

PAGE = Path(__file__).parents[2] / "docs" / "adding.md"


def example(kind):
    """The plugin that the page's section `kind` defines, executed as a module of its own."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {kind}")[1].split("\n## ")[0]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    module = types.ModuleType("example")
    exec(compile(code, f"adding.md ({kind})", "exec"), module.__dict__)
    return module.PLUGIN


def test_the_codec_gives_back_every_grid_in_any_order():
    from tokenstore.codecs.base import CodecSpec

    plugin, spec = example("A codec"), CodecSpec(vocabulary_size=700, grid=(3, 4))
    ranks = np.random.default_rng(0).integers(0, 700, (5, 3, 4)).astype(np.uint16)
    codec = plugin.from_tables(plugin.fit(ranks, spec).tables(), spec)
    data, ends = codec.encode(ranks)
    starts = np.r_[0, ends[:-1]]
    order = np.array([4, 0, 2])
    out = np.zeros((3, 3, 4), np.uint16)
    codec.decode(data, starts[order], ends[order], out)
    assert np.array_equal(out, ranks[order])


def test_the_codec_refuses_a_payload_of_another_length():
    from tokenstore.codecs.base import CodecSpec
    from tokenstore.errors import CodecError

    codec = example("A codec").from_tables({}, CodecSpec(10, (2, 2)))
    with pytest.raises(CodecError, match="row 0: 7 bytes where a grid takes 8"):
        codec.decode(
            np.zeros(8, np.uint8), np.array([0]), np.array([7]), np.zeros((1, 2, 2), np.uint16)
        )


def test_the_tokenizer_keeps_flat_colours():
    from tokenstore.preprocess import Preprocess
    from tokenstore.tokenizers.base import LoadRequest

    tokenizer = example("A tokenizer").load(
        LoadRequest("mosaic", preprocess=Preprocess("center-crop", (32, 48)))
    )
    images = np.full((2, 32, 48, 3), (51, 204, 255), np.uint8)
    ids = tokenizer.encode(images)
    assert ids.shape == (2, *tokenizer.grid) == (2, 2, 3)
    assert ids.dtype == torch.int64
    assert np.array_equal(tokenizer.to_uint8(tokenizer.decode(ids)), images)


def test_the_source_lists_and_reads_its_images(tmp_path):
    Image.new("RGB", (9, 7), "red").save(tmp_path / "a.png")
    (tmp_path / "mine.paths").write_text("a.png\nmissing.png\na.png\n")
    plugin = example("A source")
    assert plugin.accepts(str(tmp_path / "mine.paths"))
    source = plugin.open(str(tmp_path / "mine.paths"))
    listing = source.listing()
    assert [item.key for item in listing.splits["train"]] == ["a", "missing"]
    assert len(listing.rejects) == 1
    assert source.load(listing.splits["train"][0]).size == (9, 7)
