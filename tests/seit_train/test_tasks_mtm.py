"""Masked token modelling as a task: loss, evaluation, initialisation."""

import dataclasses
import math

import pytest
import torch

from seit_train.models.masking import draw_plan, fixed_plan
from seit_train.tasks.classify import Classification, ClassifyConfig
from seit_train.tasks.mtm import MaskedTokenModelling, MtmConfig
from tests.toy_facts import make_batch, make_facts, seeded
from tokenstore.errors import TrainingError

RUN = {"task": "mtm", "steps": 10, "batch_size": 8, "lr": 1e-3}
VIT = {"width": 24, "depth": 2, "heads": 3, "drop_path": 0.0}
MODEL = {
    "encoder": VIT,
    "ids": {"width": 8, "dropout": 0.0},
    "decoder": {"width": 16, "depth": 1, "heads": 2, "dropout": 0.0},
}
FACTS = make_facts(side=16)


def make_task(facts=FACTS, **settings):
    return MaskedTokenModelling(MtmConfig(**RUN, **{"model": MODEL, **settings}), facts)


def make_model(task):
    torch.manual_seed(0)
    return task.build_model()


def slow_loss(model, ranks, plan, counts):
    """Mean over images of the mean cross-entropy of the first `counts` masked positions."""
    logits, losses = model(ranks, plan), []
    for image, count in enumerate(counts):
        terms = []
        for number, position in enumerate(plan.masked[image, :count].tolist()):
            y, x = 2 * (position // 7), 2 * (position % 7)
            below = ranks[image, y : y + 2, x : x + 2].flatten().tolist()
            for slot, rank in enumerate(below):
                scores = logits[image, number, slot].double()
                terms.append((scores.logsumexp(dim=0) - scores[rank]).item())
        losses.append(sum(terms) / len(terms))
    return sum(losses) / len(losses)


def test_the_loss_of_a_step_equals_the_slow_reference():
    task, batch = make_task(), make_batch(FACTS, 4)
    model = make_model(task)
    rng = seeded(1)
    ranks = task.policy(batch.ranks, None, rng).tokens
    plan = draw_plan((4, 49), task.config.mask, rng)
    result = task.loss(model, batch, seeded(1))
    assert result.loss.item() == pytest.approx(
        slow_loss(model, ranks, plan, [plan.masked.shape[1]] * 4), abs=1e-5
    )
    assert result.scalars["mask_ratio"].item() == pytest.approx(plan.masked.shape[1] / 49)


def test_guessing_by_frequency_is_where_the_biases_start():
    bias = make_model(make_task()).decoder_head_bias
    shares = (FACTS.counts + 1.0) / (FACTS.counts + 1.0).sum()
    assert torch.allclose(bias.softmax(dim=0), shares)


def test_validation_equals_the_slow_reference_on_centre_crops():
    task, batch = make_task(), make_batch(FACTS, 5, first=7)
    model = make_model(task).eval()
    with torch.no_grad():
        metrics = task.evaluate(model, [batch])
        ranks = batch.ranks[:, 1:15, 1:15]
        plan, counts = fixed_plan(batch.index, 49, task.config.mask)
        expected = slow_loss(model, ranks, plan, counts.tolist())
    assert metrics["val_loss"] == pytest.approx(expected, abs=1e-5)
    assert metrics["val_gain"] == pytest.approx(1 - metrics["val_loss"] / metrics["val_unigram"])


def test_unigram_is_the_entropy_of_the_ranks_that_are_evaluated():
    task, batch = make_task(), make_batch(FACTS, 5)
    task_metrics = task.evaluate(make_model(task).eval(), [batch])
    ranks = batch.ranks[:, 1:15, 1:15].flatten().tolist()
    shares = [ranks.count(rank) / len(ranks) for rank in set(ranks)]
    entropy = -sum(share * math.log(share) for share in shares)
    assert task_metrics["val_unigram"] == pytest.approx(entropy)


def test_it_starts_from_a_classifier_with_an_id_embedding():
    task = make_task()
    config = {"stem": "conv2x2", "embedding": "ids", "ids": {"width": 8}, **VIT}
    donor = Classification(
        ClassifyConfig(**{**RUN, "task": "classify"}, model=config, augment=[{"random_crop": {}}]),
        FACTS,
    ).build_model()
    model = make_model(task)
    report = task.load_init(model, donor.state_dict())
    assert "encoder.blocks.1.mlp.fc2.weight" in report.loaded
    assert "encoder.pos_embed" in report.new  # its own stay fixed
    assert "encoder.head.weight" in report.unused
    name = "blocks.1.mlp.fc2.weight"
    assert torch.equal(model.state_dict()[f"encoder.{name}"], donor.state_dict()[name])


def test_weights_without_an_id_embedding_leave_the_stem_fresh():
    task = make_task()
    donor = make_model(task).state_dict()
    weights = {n.removeprefix("encoder."): w + 1 for n, w in donor.items() if "encoder." in n}
    weights = {n: w for n, w in weights.items() if not n.startswith("patch_embed.ids.")}
    weights["patch_embed.proj.weight"] = torch.ones(24, 3, 16, 16)
    model = make_model(task)
    report = task.load_init(model, weights)
    assert "encoder.patch_embed.proj.weight" in report.new
    assert torch.equal(model.encoder.norm.bias, weights["norm.bias"])


def test_a_run_without_a_codebook_crops_ranks_and_never_searches():
    facts = dataclasses.replace(FACTS, codebook=None)
    task = make_task(facts, augment=[{"random_crop": {"size": 14}}])
    assert task.loss(make_model(task), make_batch(facts, 2), seeded(3)).loss.isfinite()


def test_a_crop_that_the_stem_cannot_cover_is_refused():
    with pytest.raises(TrainingError, match="does not cover a grid of 15x15"):
        make_task(augment=[{"random_resized_crop": {"size": 15}}])


def test_single_positions_are_masked_on_coarse_grids():
    task = make_task(model={**MODEL, "stem": "linear"}, augment=[{"random_crop": {"size": 8}}])
    assert task.positions == 64
    assert task.loss(make_model(task), make_batch(FACTS, 2), seeded(4)).loss.isfinite()
