"""Judging a run: on a store, on pictures, and refusing what it was not trained for."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from seit_train.evaluate.on_images import evaluate_images
from seit_train.evaluate.on_store import evaluate_store
from seit_train.evaluate.trained import load_trained
from seit_train.launch import train
from seit_train.metrics import read_metrics
from tests.toy_store import ToyStore, write_toy_store
from tests.toy_tokenizer import ToyTokenizer
from tokenstore.build.engine import Running
from tokenstore.build.plan import BuildOptions
from tokenstore.build.run import build_store
from tokenstore.errors import Mismatch, TrainingError, UnknownName, UsageError
from tokenstore.preprocess import Preprocess


@pytest.fixture
def trained(request_run):
    return load_trained(train(request_run("toy", "steps=30")).run.folder)


@pytest.fixture
def pictures(store, tmp_path):
    """The val images of the store as pictures in class folders; the toy tokenizer is exact."""
    tokenizer = ToyTokenizer(Preprocess("center-crop", (64, 64)))
    folder = tmp_path / "pictures"
    val = store["val"]
    for i in range(len(val)):
        sample = val[i]
        ids = torch.from_numpy(store.ids(sample.ranks).astype(np.int64))
        image = tokenizer.to_uint8(tokenizer.decode(ids[None]))[0]
        path = folder / f"{sample.key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def test_on_the_store_it_is_what_training_measured(trained, store):
    metrics = evaluate_store(trained, store.url, "val")
    lines = [x for x in read_metrics(trained.run.folder) if "val_top1" in x]
    best = max(lines, key=lambda line: line["val_top1"])
    assert metrics["n"] == 13
    assert metrics["top1"] == best["val_top1"]


def test_pictures_give_the_figures_of_their_tokens(trained, store, pictures):
    expected = evaluate_store(trained, store.url, "val")
    found = evaluate_images(trained, pictures)
    assert found["n"] == 13
    assert found["top1"] == expected["top1"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert found["rejected"] == 0


def test_a_masked_run_is_judged_without_labels(request_run, store, pictures):
    masked = load_trained(train(request_run("mtm", "loop.precision=fp32")).run.folder)
    on_store = evaluate_store(masked, store.url, "val")
    assert set(on_store) >= {"n", "loss", "unigram"}
    plain = pictures.parent / "plain"
    plain.mkdir()
    for number, path in enumerate(sorted(pictures.rglob("*.png"))):
        path.rename(plain / f"{number}.png")
    assert evaluate_images(masked, plain)["unigram"] == pytest.approx(on_store["unigram"])


def test_the_tokenizer_works_in_its_own_precision(request_run, pictures, monkeypatch):
    in_bf16 = load_trained(train(request_run("toy", "loop.precision=bf16")).run.folder)
    encode, seen = ToyTokenizer.encode, []

    def watched(tokenizer, images):
        seen.append(torch.is_autocast_enabled("cpu"))
        return encode(tokenizer, images)

    monkeypatch.setattr(ToyTokenizer, "encode", watched)
    evaluate_images(in_bf16, pictures)
    assert seen
    assert not any(seen)


def test_only_the_codes_of_the_vocabulary_are_searched(trained, store, pictures, monkeypatch):
    white = np.full((64, 64, 3), 255, np.uint8)  # code 63, and the vocabulary ends at 15
    Image.fromarray(white).save(next(pictures.rglob("*.png")))
    encode, seen = ToyTokenizer.encode, []

    def watched(tokenizer, images):
        seen.append(encode(tokenizer, images))
        return seen[-1]

    monkeypatch.setattr(ToyTokenizer, "encode", watched)
    evaluate_images(trained, pictures)
    ids = torch.cat(seen)
    assert np.isin(ids, store.vocabulary.ids).all()
    whites = [grid for grid in ids if len(grid.unique()) == 1]
    assert whites and int(whites[0][0, 0]) == max(store.vocabulary.ids)  # the brightest it knows


def test_a_broken_picture_is_counted_and_left_out(trained, pictures):
    next(pictures.rglob("*.png")).write_bytes(b"no picture")
    metrics = evaluate_images(trained, pictures)
    assert (metrics["n"], metrics["rejected"]) == (12, 1)


def test_classes_are_matched_by_name_not_by_number(trained, pictures):
    whole = evaluate_images(trained, pictures)
    import shutil

    shutil.rmtree(pictures / "class0")
    fewer = evaluate_images(trained, pictures)
    assert fewer["n"] < whole["n"]
    assert fewer["top1"] == whole["top1"] == 1.0


def test_a_class_that_the_run_does_not_know_is_refused(trained, pictures):
    (pictures / "class0").rename(pictures / "zebra")
    with pytest.raises(UsageError, match="'zebra' is none of the classes"):
        evaluate_images(trained, pictures)


def test_pictures_may_come_in_splits(trained, pictures, tmp_path):
    (tmp_path / "splits").mkdir()
    pictures.rename(tmp_path / "splits" / "val")
    assert evaluate_images(trained, tmp_path / "splits")["n"] == 13
    with pytest.raises(UsageError, match="no split 'test', only: val"):
        evaluate_images(trained, tmp_path / "splits", split="test")


def test_another_vocabulary_is_refused_with_a_way_on(trained, tmp_path):
    other = write_toy_store(tmp_path / "o", ToyStore({"val": 8}, codes=20))
    with pytest.raises(Mismatch, match="vocabulary.*--images"):
        evaluate_store(trained, other.url, "val")


def test_another_grid_and_other_classes_are_refused(trained, tmp_path):
    grid = write_toy_store(tmp_path / "g", ToyStore({"val": 8}, side=4))
    with pytest.raises(Mismatch, match="grid"):
        evaluate_store(trained, grid.url, "val")
    classes = write_toy_store(tmp_path / "c", ToyStore({"val": 8}, classes=3))
    with pytest.raises(Mismatch, match="classes"):
        evaluate_store(trained, classes.url, "val")


def test_a_masked_run_does_not_care_for_classes(request_run, pictures, tmp_path):
    masked = load_trained(train(request_run("mtm")).run.folder)
    other = write_toy_store(tmp_path / "c", ToyStore({"val": 8}, classes=3))
    assert evaluate_store(masked, other.url, "val")["n"] == 8
    (pictures / "class0").rename(pictures / "zebra")
    assert evaluate_images(masked, pictures)["n"] == 13


def test_an_unknown_split_lists_the_known_ones(trained, store):
    with pytest.raises(UnknownName, match="train, val"):
        evaluate_store(trained, store.url, "test")


def test_other_weights_of_the_tokenizer_are_refused(trained, pictures):
    tokenizer = {**trained.run.store.tokenizer, "weights": "0" * 64}
    trained.run.store = replace(trained.run.store, tokenizer=tokenizer)
    with pytest.raises(Mismatch, match="--weights"):
        evaluate_images(trained, pictures)


def test_other_settings_of_the_tokenizer_are_refused(trained, pictures):
    tokenizer = {**trained.run.store.tokenizer, "config": {"codes": 64, "stride": 16}}
    trained.run.store = replace(trained.run.store, tokenizer=tokenizer)
    with pytest.raises(Mismatch, match=r"stride 16, found 8.*--config"):
        evaluate_images(trained, pictures)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(TrainingError, match="holds no run"):
        load_trained(tmp_path)


def test_a_result_is_json(trained, store):
    assert json.loads(json.dumps(evaluate_store(trained, store.url, "val")))["n"] == 13


def test_a_store_built_with_the_runs_vocabulary_is_judged_like_the_pictures(
    trained, store, pictures, tmp_path
):
    place = tmp_path / "later.tokenstore"
    build_store(str(pictures), place, BuildOptions(vocabulary=store.url), Running(1))
    found = evaluate_store(trained, str(place), "train")
    assert found["n"] == 13
    assert found["top1"] == evaluate_images(trained, pictures)["top1"]
