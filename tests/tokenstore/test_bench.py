"""`tokenstore bench`: which rates it tells, and that equal tokens are counted right."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from tests.small_store import Small, write_small_store
from tests.toy_images import write_corpus
from tests.toy_store import write_toy_store
from tests.toy_tokenizer import ToyTokenizer
from tokenstore.build.workers import decoding_pool
from tokenstore.cli.main import main
from tokenstore.preprocess import Preprocess
from tokenstore.rates import ImageFiles, precision_rates, reading_rates
from tokenstore.sources import open_source

pytestmark = pytest.mark.usefixtures("toy_tokenizer")


def bench(*words: object) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, words)])


def test_every_rate_but_the_ground_stands_beside_another(tmp_path: Path) -> None:
    store = write_toy_store(tmp_path / "s")
    facts = json.loads(bench(store.url, "--json").stdout)
    assert (facts["split"], facts["images"], facts["tokenizing"]) == (
        "train",
        len(store["train"]),
        [],
    )
    rates = {rate["name"]: rate for rate in facts["reading"]}
    assert set(rates) == {
        "shard files, front to back",
        "decoding",
        "gathering batches in memory",
        "random batches",
        "random single images",
        "loading",
    }
    for rate in rates.values():
        assert rate["images_per_second"] > 0
        if rate["other"] is not None:
            other = rates[rate["other"]]["images_per_second"]
            assert rate["ratio"] == pytest.approx(rate["images_per_second"] / other)
    grounds = {name for name, rate in rates.items() if rate["ratio"] is None}
    assert grounds == {"shard files, front to back", "gathering batches in memory"}


def test_stores_of_several_codecs_and_shards_are_read(tmp_path: Path) -> None:
    written = write_small_store(tmp_path / "s", Small(counts=(("val", 21),)))
    assert len(list(reading_rates(written.store["val"]))) == 6


def test_images_are_tokenized_by_the_tokenizer_of_the_store(tmp_path: Path) -> None:
    images = write_corpus(tmp_path / "in", {"train": 5, "val": 4})
    store = tmp_path / "s"
    assert (
        CliRunner()
        .invoke(main, ["build", str(images), "-o", str(store), "--tokenizer", "toy"])
        .exit_code
        == 0
    )
    told = bench(store, "--images", images, "--limit", 7, "--device", "cpu", "--json")
    facts = json.loads(told.stdout)
    assert [found["precision"] for found in facts["tokenizing"]] == ["fp32", "bf16"]
    assert [found["images"] for found in facts["tokenizing"]] == [7, 7]
    assert [found["equal"] for found in facts["tokenizing"]] == [1.0, 1.0]
    assert "tf32 is left out" in told.stderr
    table = bench(store, "--images", images, "--precision", "bf16", "--device", "cpu").stdout
    assert "random batches" in table
    assert "100.000% of the tokens equal (9 images)" in table


def test_equal_tokens_are_counted_against_fp32(tmp_path: Path) -> None:
    source = open_source(str(write_corpus(tmp_path / "in", {"train": 4})))

    class Rough(ToyTokenizer):
        """One of the sixteen tokens of each image is another."""

        def encode(self, images: np.ndarray) -> torch.Tensor:
            ids = super().encode(images)
            ids[:, 0, 0] += 1
            return ids

    def load(precision: str) -> ToyTokenizer:
        kind = {"fp32": ToyTokenizer, "bf16": Rough}[precision]
        return kind(Preprocess("squash", (32, 32)))

    with decoding_pool(1) as pool:
        files = ImageFiles(source, source.listing().splits["train"], pool, 3)
        exact, rough = precision_rates(load, ["bf16"], files)
    assert (exact.precision, exact.ratio, exact.equal) == ("fp32", 1.0, 1.0)
    assert (rough.precision, rough.images, rough.equal) == ("bf16", 4, 15 / 16)


def test_unusable_images_are_left_out_and_nothing_else_is_refused(tmp_path: Path) -> None:
    images = write_corpus(tmp_path / "in", {"train": 3})
    store = write_toy_store(tmp_path / "s")
    files = sorted(images.rglob("*.jpg"))
    files[0].write_bytes(b"no image")
    facts = json.loads(bench(store.url, "--images", images, "--device", "cpu", "--json").stdout)
    assert [found["images"] for found in facts["tokenizing"]] == [2, 2]
    for file in files:
        file.write_bytes(b"no image")
    refused = bench(store.url, "--images", images, "--device", "cpu")
    assert refused.exit_code == 2
    assert "none of 3 images could be decoded" in refused.stderr


def test_tf32_is_refused_where_there_is_no_cuda(tmp_path: Path) -> None:
    images = write_corpus(tmp_path / "in", {"train": 2})
    store = tmp_path / "s"
    built = ["build", str(images), "-o", str(store), "--image-size", "32", "--device", "cpu"]
    assert CliRunner().invoke(main, built).exit_code == 0
    refused = bench(store, "--images", images, "--precision", "tf32", "--device", "cpu")
    assert refused.exit_code == 2
    assert "tf32 exists on cuda only" in refused.stderr
