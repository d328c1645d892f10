"""Attacks: what they may change, that they find something, and what is told of them."""

import json

import pytest
import torch
from click.testing import CliRunner

from seit_train.cli.main import main
from seit_train.evaluate.adversarial import PictureAttack, judge_attacked
from seit_train.evaluate.apgd import Apgd, attack, checkpoints, difference_of_logits_ratio
from seit_train.evaluate.greedy_ids import judge_substituted
from seit_train.evaluate.on_images import open_gallery
from seit_train.evaluate.picture_path import AttackedPath
from tokenstore.errors import UsageError


def test_the_path_says_what_the_run_says(grey_runs, greys):
    for name, trained in grey_runs.items():
        gallery = open_gallery(trained, greys)
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
def test_an_attack_through_the_tokenizer_costs_accuracy(grey_runs, greys, name):
    gallery = open_gallery(grey_runs[name], greys)
    found = judge_attacked(grey_runs[name], gallery, PictureAttack("ce", (2, 16), steps=6))
    shares = [row["top1"] for row in found["rows"]]
    assert [row["eps"] for row in found["rows"]] == [0, 2, 16]
    assert shares[0] > 0.8
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < shares[0] - 0.3
    assert "obfuscated" in found["caution"]


def test_past_the_quantiser_needs_the_codebook(grey_runs, greys):
    asked = PictureAttack("dlr", (16,), "left-out", steps=4)
    found = judge_attacked(grey_runs["codebook"], open_gallery(grey_runs["codebook"], greys), asked)
    assert found["rows"][-1]["top1_path"] < found["rows"][0]["top1_path"]
    with pytest.raises(UsageError, match="a table of its own"):
        judge_attacked(grey_runs["ids"], open_gallery(grey_runs["ids"], greys), asked)


@pytest.mark.parametrize("name", ["codebook", "ids"])
def test_more_substituted_ids_cost_more(grey_runs, greys, name):
    gallery = open_gallery(grey_runs[name], greys)
    rows = judge_substituted(
        grey_runs[name], map(gallery.batch, gallery.decoded()), (1, 4, 8), gallery.targets.among
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


def test_the_command_prints_table_and_caution(grey_runs, greys):
    words = ["evaluate", str(grey_runs["codebook"].run.folder), "--images", str(greys)]
    more = ["--attack", "apgd-ce", "--eps", "0..1", "--steps", "2", "--sample", "6"]
    ran = CliRunner().invoke(main, [*words, *more])
    assert ran.exit_code == 0, ran.output
    assert "top1_path" in ran.stdout and "obfuscated" in ran.stdout
    ran = CliRunner().invoke(main, [*words, "--attack", "greedy-ids", "--budget", "2", "--json"])
    assert ran.exit_code == 0, ran.output
    found = json.loads(ran.stdout)
    assert [row["ids"] for row in found["attack"]["rows"]] == [0, 2]
    store = grey_runs["codebook"].run.store.place
    ran = CliRunner().invoke(main, [*words[:2], "--store", store, "--attack", "apgd-ce"])
    assert ran.exit_code == 2
