"""Pipelines from end to end, on small corpora laid out as the real ones, with a few steps each."""

import json
from importlib import import_module

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

import tokenstore
from tests.pipelines.corpora import SYNSETS, write_ade20k, write_flowers, write_imagenet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

RECIPE = """
mtm:
  epochs: 1
  batch_size: 8
  lr: 1.0e-3
  model:
    encoder: {width: 32, depth: 2, heads: 2}
    stem: conv2x2
    ids: {width: 16}
    decoder: {width: 16, depth: 1, heads: 2, padding: class-token}
  requantise: euclidean
  augment:
    - halves:
        first: [{token_adapt: {weights: runs/adapt, size: 4}}]
        rest: [{random_resized_crop: {size: 4}}]
classify:
  epochs: 1
  batch_size: 8
  lr: 1.0e-3
  model: {width: 32, depth: 2, heads: 2, stem: conv2x2, embedding: ids, ids: {width: 16}}
  requantise: euclidean
  augment:
    - halves:
        first: [{token_adapt: {weights: runs/adapt, size: 4, mixup: 0.8, cutmix: 1.0}}]
        rest: [{random_resized_crop: {size: 4}}, {cutmix: {alpha: 1.0}}]
tokenadapt:
  epochs: 1
  batch_size: 8
  lr: 1.0e-3
  model: {width: 16, heads: 2}
segment:
  steps: 2
  batch_size: 4
  lr: 1.0e-3
  model: {width: 32, depth: 2, heads: 2, stem: conv2x2, embedding: ids, ids: {width: 16},
    head: convolutions}
  requantise: euclidean
  augment: []
"""


PIXELS = {
    "steps": 1,
    "batch_size": 8,
    "lr": 1.0e-3,
    "model": {"width": 32, "depth": 2, "heads": 2},
    "image_size": 32,
    "workers": 0,
}


@pytest.fixture
def plain(tmp_path):
    """A recipe without a TokenAdapt, for grids of 16x16, and for pixels too."""
    recipe = yaml.safe_load(RECIPE) | {"pixels": PIXELS}
    for section in ("mtm", "classify"):
        recipe[section]["augment"] = [{"random_crop": {"size": 14}}]
    file = tmp_path / "plain.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return ("--tokenizer", "pocket", "--image-size", 128, "--recipe", file)


def pipeline(name, *words):
    main = import_module(f"pipelines.{name}").main
    ran = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran


def answer(folder, step):
    return json.loads((folder / "steps" / f"{step}.out").read_text())


def test_imagenet1k_goes_from_the_unpacked_corpus_to_top1_and_ade20k_goes_on_from_it(
    tmp_path, toy_tokenizer
):
    corpus, folder = write_imagenet(tmp_path / "imagenet"), tmp_path / "in1k"
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    small = ("--tokenizer", toy_tokenizer, "--recipe", tmp_path / "tiny.yaml", "--limit", 24)
    words = (corpus, "-o", folder, *small)
    told = pipeline("imagenet1k", *words)
    assert "published 0.778" in told.stdout and "a trial" in told.stdout
    assert answer(folder, "evaluate")["n"] == 8
    manifest = json.loads((folder / "in1k.tokenstore" / "manifest.json").read_text())
    assert manifest["classes"] == sorted(SYNSETS)
    assert manifest["splits"]["train"]["count"] == 24

    again = pipeline("imagenet1k", *words)
    assert again.stderr.count("done before") == 7

    # Interrupted between the end of a command and its mark: the commands know that they are done.
    weights = folder / "runs" / "mtm-classify" / "checkpoints" / "last" / "model.safetensors"
    before = weights.read_bytes()
    for step in ("prepare", "build-in1k", "mtm-classify"):
        (folder / "steps" / f"{step}.json").unlink()
    pipeline("imagenet1k", *words)
    assert weights.read_bytes() == before

    judged = pipeline("robustness", "-o", folder, "--sketch", folder / "images" / "val")
    assert "published 0.277" in judged.stdout and "published 0.668" in judged.stdout
    assert answer(folder, "sketch")["top1"] == answer(folder, "clean")["top1"]

    scenes = write_ade20k(tmp_path / "ADEChallengeData2016")
    size = ("--image-size", 32, "--pretrained", folder)
    small = ("--tokenizer", toy_tokenizer, "--recipe", tmp_path / "tiny.yaml", "--limit", 12)
    pipeline("ade20k", scenes, "-o", tmp_path / "ade", *small, *size)
    assert 0 <= answer(tmp_path / "ade", "evaluate")["miou"] <= 1


def test_own_images_end_with_two_pages(tmp_path, toy_tokenizer):
    corpus = write_imagenet(tmp_path / "imagenet", train=10)
    words = ("--tokenizer", toy_tokenizer, "--recipe", tmp_path / "tiny.yaml", "--limit", 20)
    recipe = yaml.safe_load(RECIPE)
    recipe["mtm"]["augment"] = [{"random_crop": {"size": 4}}]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    folder = tmp_path / "mine"
    pipeline(
        "own_images", corpus / "train", "-o", folder, "--image-size", 32, *words, "--unlabelled"
    )
    for page in ("store.html", "runs.html"):
        assert (folder / page).stat().st_size > 10_000


def test_imagenet21k_goes_from_tokens_over_tokens_to_pixels(tmp_path, plain):
    larger = write_imagenet(tmp_path / "larger", train=10) / "train"
    corpus, folder = write_imagenet(tmp_path / "imagenet"), tmp_path / "in21k"
    words = (larger, corpus, "-o", folder, *plain, "--limit", 24)
    told = pipeline("imagenet21k", *words)
    assert "published 0.811" in told.stdout and "published 0.828" in told.stdout
    first, second = (tokenstore.open(folder / f"{name}.tokenstore") for name in ("in21k", "in1k"))
    assert np.array_equal(first.vocabulary.ids, second.vocabulary.ids)
    assert not np.array_equal(first.vocabulary.counts, second.vocabulary.counts)
    assert answer(folder, "evaluate-pixels")["n"] == 8


def test_flowers_go_from_their_lists_to_top1(tmp_path, plain):
    corpus, folder = write_flowers(tmp_path / "flowers"), tmp_path / "out"
    told = pipeline("finegrained", "flowers", corpus, "-o", folder, *plain, "--limit", 4)
    assert "published 0.952" in told.stdout
    assert answer(folder, "evaluate")["n"] == 2
