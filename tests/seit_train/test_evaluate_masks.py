"""Judging a segmentation run on images with masks, at the store's size and at the masks' own."""

import json

import pytest
from click.testing import CliRunner

from seit_train.cli.main import main
from seit_train.evaluate.on_images import OWN_PLACE, open_gallery
from seit_train.evaluate.on_masks import evaluate_masks, resized
from seit_train.evaluate.on_store import evaluate_store
from seit_train.evaluate.trained import load_trained
from seit_train.exporting import export
from seit_train.launch import TrainRequest, train
from tests.toy_masks import IGNORED, mask, write_masked_corpus, write_pair
from tokenstore.build.engine import Running
from tokenstore.build.plan import BuildOptions
from tokenstore.build.run import build_store
from tokenstore.errors import Mismatch, UsageError

RECIPE = """
segment:
  steps: 8
  batch_size: 8
  lr: 3.0e-3
  loop: {precision: fp32}
  model: {width: 24, depth: 1, heads: 2, stem: linear, head: convolutions, drop_path: 0.0}
"""


@pytest.fixture
def corpus(tmp_path):
    return write_masked_corpus(tmp_path / "in", {"train": 8, "val": 3})


@pytest.fixture
def trained(corpus, tmp_path):
    place, recipe = tmp_path / "s.tokenstore", tmp_path / "r.yaml"
    options = BuildOptions(tokenizer="toy", image_size=(32, 32))
    build_store(str(corpus), place, options, Running(1))
    recipe.write_text(RECIPE)
    request = TrainRequest("segment", str(place), tmp_path / "run", str(recipe), ())
    return load_trained(train(request).run.folder)


def test_masks_are_judged_at_both_sizes(trained, corpus):
    gallery = open_gallery(trained, corpus)
    found = evaluate_masks(trained, gallery)
    on_store = evaluate_store(trained, trained.run.store.place, "val")
    for name in ("n", "miou", "pixel_accuracy", "loss"):
        assert found[name] == pytest.approx(on_store[name], rel=1e-5), name
    # center-crop to 32x32 shows 32 of 48 columns, all rows: there both sizes are one.
    original = found["original"]
    assert original["shown"] == pytest.approx(2 / 3)
    assert original["miou"] == pytest.approx(on_store["miou"])
    assert original["iou"] == pytest.approx(on_store["iou"])


def test_larger_originals_are_judged_at_their_own_size(trained, corpus):
    for number in range(3):
        values = mask(300 + number).repeat(3, 0).repeat(3, 1)
        write_pair(
            *(corpus / "val" / kind / f"p{number}.png" for kind in ("images", "masks")), values
        )
    gallery = open_gallery(trained, corpus)
    found = evaluate_masks(trained, gallery)["original"]
    right = known = 0
    for decoded in gallery.decoded():
        logits = trained.task.predict(trained.model, gallery.batch(decoded).ranks).detach()
        for one, truth in zip(logits, decoded.masks, strict=True):
            assert truth.shape == (96, 144)
            guess, seen = resized(one, (96, 96)).argmax(0).numpy(), truth[:, 24:120]
            right += ((guess == seen) & (seen != IGNORED)).sum()
            known += (seen != IGNORED).sum()
    assert found["pixel_accuracy"] == pytest.approx(right / known)
    assert found["shown"] == pytest.approx(2 / 3)


def test_images_without_masks_are_refused(trained, corpus, tmp_path):
    with pytest.raises(UsageError, match="learnt from masks"):
        open_gallery(trained, corpus / "val" / "images")


def test_other_mask_classes_are_refused(trained, corpus):
    content = json.loads((corpus / "classes.json").read_text())
    content["classes"][0]["name"] = "moon"
    (corpus / "classes.json").write_text(json.dumps(content))
    with pytest.raises(Mismatch, match=r"classes.json"):
        open_gallery(trained, corpus)


def test_the_command_prints_both(trained, corpus):
    words = ["evaluate", str(trained.run.folder), "--images", str(corpus)]
    ran = CliRunner().invoke(main, [*words, "--json"])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert {"n", "miou", "pixel_accuracy", "iou", "loss", "original"} <= set(found)
    ran = CliRunner().invoke(main, [*words, "--corruption", "contrast:1,5", "pixelate:2"])
    assert ran.exit_code == 0, ran.output
    assert "contrast" in ran.stdout and "pixelate" in ran.stdout


def test_a_segmenter_is_exported_from_ids(trained, tmp_path):
    file = tmp_path / "m.pt2"
    found = export(trained, file, True, OWN_PLACE)
    assert found.output == "logits float32 [n,3,32,32]"
    assert found.difference < 1e-4
