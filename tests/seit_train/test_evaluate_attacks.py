"""Attacks: what they may change, that they find something, and what is told of them."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from seit_train.cli.main import main
from seit_train.evaluate.adversarial import PictureAttack, judge_attacked
from seit_train.evaluate.apgd import Apgd, attack, checkpoints, difference_of_logits_ratio
from seit_train.evaluate.greedy_ids import judge_substituted
from seit_train.evaluate.on_images import open_gallery
from seit_train.evaluate.picture_path import AttackedPath
from seit_train.evaluate.trained import load_trained
from seit_train.launch import TrainRequest, train
from tokenstore.build.engine import Running
from tokenstore.build.plan import BuildOptions
from tokenstore.build.run import build_store
from tokenstore.errors import UsageError

SIDE = 32
RECIPE = """
classify:
  steps: 40
  batch_size: 12
  lr: 3.0e-3
  loop: {precision: fp32}
  model: {width: 24, depth: 1, heads: 2, stem: linear, drop_path: 0.0}
  augment: []
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """12 pictures each of three slightly different greys, as noise."""
    folder, rng = tmp_path_factory.mktemp("greys"), np.random.default_rng(0)
    for split in ("train", "val"):
        for label, grey in enumerate((110, 128, 146)):
            for number in range(8):
                path = folder / split / f"grey{label}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                noise = rng.integers(-6, 7, (SIDE, SIDE, 3))
                Image.fromarray((grey + noise).astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def runs(corpus, tmp_path_factory):
    """A run that embeds by the codebook, and one that embeds ids."""
    place = tmp_path_factory.mktemp("attacked")
    options = BuildOptions(tokenizer="pocket", image_size=(SIDE, SIDE))
    build_store(str(corpus), place / "s", options, Running(1))
    (place / "r.yaml").write_text(RECIPE)

    def make(name, *more):
        request = TrainRequest(
            "classify", str(place / "s"), place / name, str(place / "r.yaml"), more
        )
        return load_trained(train(request).run.folder)

    return {"codebook": make("a"), "ids": make("b", "model.embedding=ids", "model.ids.width=8")}


def test_the_path_says_what_the_run_says(runs, corpus):
    for name, trained in runs.items():
        gallery = open_gallery(trained, corpus)
        path = AttackedPath(trained, gallery.tokenizer, "straight-through")
        (decoded,) = gallery.decoded()
        images = torch.from_numpy(decoded.images).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            expected = trained.task.logits(trained.model, gallery.batch(decoded))
            torch.testing.assert_close(path(images), expected, rtol=1e-3, atol=1e-3)
        images.requires_grad_()
        path(images).square().sum().backward()
        assert float(images.grad.abs().mean()) > 0, name


@pytest.mark.parametrize("name", ["codebook", "ids"])
def test_an_attack_through_the_tokenizer_costs_accuracy(runs, corpus, name):
    gallery = open_gallery(runs[name], corpus)
    found = judge_attacked(runs[name], gallery, PictureAttack("ce", (2, 16), steps=6))
    shares = [row["top1"] for row in found["rows"]]
    assert [row["eps"] for row in found["rows"]] == [0, 2, 16]
    assert shares[0] > 0.8
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < shares[0] - 0.3
    assert "obfuscated" in found["caution"]


def test_past_the_quantiser_needs_the_codebook(runs, corpus):
    asked = PictureAttack("dlr", (16,), "left-out", steps=4)
    found = judge_attacked(runs["codebook"], open_gallery(runs["codebook"], corpus), asked)
    assert found["rows"][-1]["top1_path"] < found["rows"][0]["top1_path"]
    with pytest.raises(UsageError, match="a table of its own"):
        judge_attacked(runs["ids"], open_gallery(runs["ids"], corpus), asked)


@pytest.mark.parametrize("name", ["codebook", "ids"])
def test_more_substituted_ids_cost_more(runs, corpus, name):
    gallery = open_gallery(runs[name], corpus)
    rows = judge_substituted(
        runs[name], map(gallery.batch, gallery.decoded()), (1, 4, 8), gallery.targets.among
    )
    shares = [row["top1"] for row in rows]
    assert [row["ids"] for row in rows] == [0, 1, 4, 8]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < shares[0]


def linear(images):
    """Three classes by the mean of each channel."""
    return 20 * images.mean(dim=(2, 3))


@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_a_linear_model_falls_exactly_where_it_can(loss):
    images = torch.tensor([0.5, 0.4, 0.3])[None, :, None, None].repeat(2, 1, 4, 4)
    images[1, 0] = 0.6
    labels, rng = torch.zeros(2, dtype=torch.int64), torch.Generator().manual_seed(0)
    changed = attack(linear, images, labels, Apgd(loss, 0.06, 20), rng)
    assert float((changed - images).abs().max()) <= 0.06 + 1e-6
    assert float(changed.min()) >= 0 and float(changed.max()) <= 1
    # A gap of 0.1 is closed by 0.06 on both sides, one of 0.2 is not.
    assert (linear(changed).argmax(1) != labels).tolist() == [True, False]


def test_what_a_picture_becomes_does_not_depend_on_its_batch():
    images = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    labels = linear(images).argmax(1)

    def run(images, labels):
        rng = torch.Generator().manual_seed(0)
        return attack(linear, images, labels, Apgd("ce", 0.01, 10), rng)

    alone = run(images, labels)
    beside = run(torch.cat([images, torch.zeros_like(images)]), labels.repeat(2))
    assert torch.equal(alone[0], beside[0])


def test_checkpoints_and_the_ratio_are_those_of_the_paper():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    logits = torch.tensor([[3.0, 1.0, -1.0, 0.0], [1.0, 3.0, 2.0, 0.0]])
    found = difference_of_logits_ratio(logits, torch.tensor([0, 0]))
    assert found.tolist() == pytest.approx([-2 / 3, 1.0])


def test_the_command_prints_table_and_caution(runs, corpus):
    words = ["evaluate", str(runs["codebook"].run.folder), "--images", str(corpus)]
    more = ["--attack", "apgd-ce", "--eps", "0..1", "--steps", "2", "--sample", "6"]
    ran = CliRunner().invoke(main, [*words, *more])
    assert ran.exit_code == 0, ran.output
    assert "top1_path" in ran.stdout and "obfuscated" in ran.stdout
    ran = CliRunner().invoke(main, [*words, "--attack", "greedy-ids", "--budget", "2", "--json"])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert [row["ids"] for row in found["attack"]["rows"]] == [0, 2]
    store = runs["codebook"].run.store.place
    ran = CliRunner().invoke(main, [*words[:2], "--store", store, "--attack", "apgd-ce"])
    assert ran.exit_code == 2
