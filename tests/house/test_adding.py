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
    from tokenstore.sources.base import SourceOptions

    Image.new("RGB", (9, 7), "red").save(tmp_path / "a.png")
    (tmp_path / "mine.paths").write_text("a.png\nmissing.png\na.png\n")
    plugin = example("A source")
    assert plugin.accepts(str(tmp_path / "mine.paths"), SourceOptions())
    source = plugin.open(str(tmp_path / "mine.paths"))
    listing = source.listing()
    assert [item.key for item in listing.splits["train"]] == ["a", "missing"]
    assert len(listing.rejects) == 1
    assert source.load(listing.splits["train"][0]).size == (9, 7)


def test_the_format_goes_out_and_comes_back(tmp_path, monkeypatch):
    import tokenstore
    from tests.toy_store import write_toy_store
    from tokenstore.errors import SourceError
    from tokenstore.interop import exporting, importing
    from tokenstore.interop.base import ImportRequest

    plugin = example("A format")
    for module in (exporting, importing):
        monkeypatch.setattr(module, "find_format", lambda kind: plugin)
    store = write_toy_store(tmp_path / "s")
    exporting.export_store(store.url, "jsonl", tmp_path / "out")
    line = (tmp_path / "out" / "val.jsonl").read_text().splitlines()[1]
    assert line.startswith('{"class_id": ')
    request = ImportRequest(tmp_path / "out")
    importing.import_store("jsonl", request, tmp_path / "t", importing.ImportOptions())
    back = tokenstore.open(tmp_path / "t")
    for split in ("train", "val"):
        everything = np.arange(len(store[split]))
        there, here = store[split].read(everything), back[split].read(everything)
        assert np.array_equal(back.ids(here.ranks), store.ids(there.ranks))
        assert np.array_equal(here.labels, there.labels)
    with (tmp_path / "out" / "val.jsonl").open("a") as file:
        file.write('{"tokens": [1, 2]}\n')
    with pytest.raises(SourceError, match="line 16 has 2 ids, expected 64"):
        importing.import_store("jsonl", request, tmp_path / "u", importing.ImportOptions())


def test_the_augmentation_mirrors_some_images_of_a_batch():
    from seit_train.augment.base import Surroundings, View

    plugin = example("An augmentation")
    mirror = plugin(plugin.Options(p=0.5), Surroundings((2, 3), codebook=None))
    ranks = torch.arange(64 * 6).reshape(64, 2, 3)
    mirrored = mirror(View(ranks, None), torch.Generator().manual_seed(0)).tokens
    kept = (mirrored == ranks).flatten(1).all(1)
    turned = (mirrored == ranks.flip(-1)).flatten(1).all(1)
    assert (kept ^ turned).all() and 10 < int(turned.sum()) < 54


def test_the_task_learns_on_a_batch_it_sees_again_and_again():
    from seit_train.data import TokenBatch
    from seit_train.tasks.base import StoreFacts

    torch.manual_seed(0)
    plugin = example("A task")
    facts = StoreFacts(9, (8, 8), torch.randn(9, 4), classes=(), counts=torch.ones(9))
    vit = {"width": 32, "depth": 2, "heads": 2}
    config = plugin.Config(task="rotation", steps=1, batch_size=16, lr=3e-3, model=vit)
    task = plugin(config, facts)
    model = task.build_model()
    ranks = torch.arange(8)[:, None].expand(16, 8, 8)  # stripes: a turn can be told
    batch = TokenBatch(ranks, None, torch.ones(16, dtype=torch.bool), torch.arange(16), None)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr)
    for step in range(30):
        result = task.loss(model, batch, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        assert task.evaluate(model, [batch])["val_top1"] > 0.9
    report = task.load_init(model, {f"encoder.{n}": w for n, w in model.state_dict().items()})
    assert "blocks.0.attn.qkv.weight" in report.loaded and "head.weight" in report.new
