"""Grids with channels: coefficients of DCT go through the same tasks, as real numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import tokenstore
from seit_train.augment.compose import Policy
from seit_train.cli.main import main
from seit_train.embed import Channels
from seit_train.run import StoreIdentity
from tests.toy_masks import CLASSES, IGNORED, mask, write_pair
from tokenstore.cli.main import main as build_main
from tokenstore.errors import TrainingError

RECIPE = """
classify:
  epochs: 6
  batch_size: 16
  lr: 2.0e-3
  loop: {log_every: 2, precision: fp32}
  model: {width: 32, depth: 2, heads: 2, stem: conv2x2, drop_path: 0.0}
  augment:
    - random_resized_crop: {size: 6, scale: [0.5, 1]}
    - emb_noise: {}
    - color_adapt: {}
    - cutmix: {}
segment:
  steps: 30
  batch_size: 8
  lr: 3.0e-3
  loop: {log_every: 15, precision: fp32}
  model: {width: 32, depth: 1, heads: 2, stem: linear, drop_path: 0.0, head: convolutions}
  augment: [{random_crop: {size: 3}}]
mtm:
  steps: 1
  batch_size: 4
  lr: 1.0e-3
"""


def build(images: Path, place: Path, size: str) -> Path:
    words = ["build", str(images), "-o", str(place), "--tokenizer", "dct", "--image-size", size]
    ran = CliRunner().invoke(build_main, [*words, "--workers", "1"])
    assert ran.exit_code == 0, ran.output
    return place


@pytest.fixture(scope="module")
def dct_store(scene_corpus, tmp_path_factory):
    return build(scene_corpus, tmp_path_factory.mktemp("dct") / "s", "64")


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    return file


def seit_train(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def facts_of(place):
    return StoreIdentity.of(tokenstore.open(place)).facts()


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_channels_are_dequantised_and_scaled(dct_store):
    store, facts = tokenstore.open(dct_store), facts_of(dct_store)
    assert (facts.grid, facts.width) == ((8, 8), 192)
    ranks = store["train"].read(np.arange(4)).ranks
    policy = Policy([], facts.surroundings, None, "grid")
    numbers = policy.plain(torch.from_numpy(ranks.astype(np.int64))).numpy()
    config = store.manifest.tokenizer.config
    coefficients = store.ids(ranks).astype(np.float64) - 1024
    expected = coefficients * np.array(config["scale"])[:, None, None]
    np.testing.assert_allclose(numbers, expected, rtol=1e-5)
    assert (store.decode(ranks) != store.decode(ranks[::-1])).any()


def test_classification_learns_from_coefficients_and_is_judged_on_pictures(
    dct_store, scene_corpus, recipe, tmp_path
):
    run = tmp_path / "run"
    ran = seit_train("classify", dct_store, "-o", run, "--recipe", recipe)
    assert ran.exit_code == 0, ran.output
    losses = [line["loss"] for line in lines(run) if "loss" in line]
    assert losses[-1] < losses[0]
    told = [
        json.loads(seit_train("evaluate", run, *where, "--json").stdout)
        for where in (("--store", dct_store), ("--images", scene_corpus))
    ]
    assert told[0]["n"] == told[1]["n"] == 16
    assert told[0]["loss"] == pytest.approx(told[1]["loss"], rel=1e-4)
    page = seit_train("report", run, "-o", tmp_path / "runs.html")
    assert page.exit_code == 0, page.output


def test_segmentation_learns_from_coefficients(recipe, tmp_path):
    for split, count in (("train", 16), ("val", 4)):
        for number in range(count):
            folder = tmp_path / "pairs" / split
            values = mask(100 * (split == "val") + number, (32, 32))
            write_pair(folder / f"images/{number}.png", folder / f"masks/{number}.png", values)
    classes = {"classes": list(CLASSES), "ignore_index": IGNORED}
    (tmp_path / "pairs/classes.json").write_text(json.dumps(classes))
    store, run = build(tmp_path / "pairs", tmp_path / "s", "32"), tmp_path / "run"
    ran = seit_train("segment", store, "-o", run, "--recipe", recipe)
    assert ran.exit_code == 0, ran.output
    told = [line["val_miou"] for line in lines(run) if "val_miou" in line]
    assert max(told) > 0.5  # a class a colour: chance is below 0.2


def test_masked_modelling_is_refused(dct_store, recipe, tmp_path):
    ran = seit_train("mtm", dct_store, "-o", tmp_path / "run", "--recipe", recipe)
    assert ran.exit_code == 2
    assert "192 channels of numbers: classify and segment read them" in ran.stderr


def test_a_table_of_ids_is_refused(dct_store, recipe, tmp_path):
    words = ["classify", dct_store, "-o", tmp_path / "run", "--recipe", recipe]
    ran = seit_train(*words, "model.embedding=ids")
    assert ran.exit_code == 2
    assert "set model.embedding=codebook" in ran.stderr


def test_augmentations_of_codes_are_refused(dct_store):
    with pytest.raises(TrainingError, match="eda works on ranks.*a grid with channels has vectors"):
        Policy([{"eda": {}}], facts_of(dct_store).surroundings, None, "grid")


def test_channels_of_vectors_are_refused():
    with pytest.raises(TrainingError, match="a codebook of 4 numbers a rank"):
        Channels(torch.zeros(7, 4), torch.ones(3))


def test_an_export_without_the_tokenizer_takes_ids_with_channels(dct_store, recipe, tmp_path):
    run, file = tmp_path / "run", tmp_path / "m.pt2"
    words = ["classify", dct_store, "-o", run, "--recipe", recipe, "steps=1"]
    assert seit_train(*words).exit_code == 0
    ran = seit_train("export", run, "-o", file, "--ids", "--json")
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["input"] == "ids int64 [n,192,8,8]"
    refused = seit_train("export", run, "-o", tmp_path / "n.pt2")
    assert refused.exit_code == 2
    assert "dct is no network" in refused.stderr
