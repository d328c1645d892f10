"""The methods against slow references written from their formulas, and what they refuse."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from seit_train.config import make_config
from seit_train.methods.base import Scene
from seit_train.methods.mage import Mage, MageOptions
from seit_train.models.mage import nt_xent
from seit_train.models.masking import (
    MaskConfig,
    MaskPlan,
    draw_disjoint_plans,
    draw_plan,
    fixed_plan,
)
from seit_train.tasks.classify import Classification, ClassifyConfig
from seit_train.tasks.mtm import METHODS, MaskedTokenModelling, MtmConfig
from tests.toy_facts import make_batch, make_facts, seeded
from tokenstore.errors import TrainingError, UnknownName, UsageError

RUN = {"task": "mtm", "steps": 10, "batch_size": 8, "lr": 1e-3}
VIT = {"width": 24, "depth": 2, "heads": 3, "drop_path": 0.0}
MODEL = {
    "encoder": VIT,
    "ids": {"width": 8, "dropout": 0.0},
    "decoder": {"width": 16, "depth": 1, "heads": 2, "dropout": 0.0},
}
SMALL = {"hidden": 32, "out": 12}
FACTS = make_facts(side=16)
POSITIONS = 49
TWO_VIEWS = {
    "lut": {"method": "lut", "lut": {"context": SMALL}},
    "lut on simmim": {"method": "lut", "lut": {"base": "simmim", "context": SMALL}},
    "lut alone": {"method": "lut", "lut": {"base": None, "context": SMALL}},
    "mage-c": {"method": "mage", "mage": {"contrast": 0.1, "contrastive": SMALL}},
}
ALL = {name: {"method": name} for name in ("mtm", "simmim", "mage")} | TWO_VIEWS


def make_task(**settings):
    return MaskedTokenModelling(MtmConfig(**RUN, **{"model": MODEL, **settings}), FACTS)


def make_model(task, seed=0):
    torch.manual_seed(seed)
    return task.build_model()


def slow_entropy(logits, ranks, plan, smoothing=0.0):
    """Mean over images, positions and ranks of -sum(target log share), one number at a time."""
    terms, codes = [], FACTS.vocabulary_size
    for image, positions in enumerate(plan.masked.tolist()):
        for number, position in enumerate(positions):
            y, x = 2 * (position // 7), 2 * (position % 7)
            for slot, rank in enumerate(ranks[image, y : y + 2, x : x + 2].flatten().tolist()):
                logs = logits[image, number, slot].double().log_softmax(dim=0).tolist()
                spread = sum(logs) / codes
                terms.append(-(1 - smoothing) * logs[rank] - smoothing * spread)
    return sum(terms) / len(terms)


def views(task, batch, rng):
    return [task.policy(batch.ranks, None, rng).tokens for _ in range(2)]


def slow_seen_mean(model, ranks, plan):
    """Mean of what the encoder makes of the positions that it really sees, float [B,width]."""
    encoded, rows = model.encode(ranks, plan), []
    for image, hidden in enumerate(plan.hidden.tolist()):
        seen = [encoded[image, 1 + n] for n, is_hidden in enumerate(hidden) if not is_hidden]
        rows.append(sum(seen) / len(seen))
    return torch.stack(rows)


# ------------------------------------------------------------------------ losses from formulas


def test_simmim_and_mage_are_the_cross_entropy_of_the_masked_ranks():
    for name, smoothing in (("simmim", 0.0), ("mage", 0.1)):
        task, batch = make_task(method=name), make_batch(FACTS, 3)
        model, rng = make_model(task), seeded(1)
        ranks = task.policy(batch.ranks, None, rng).tokens
        plan = draw_plan((3, POSITIONS), task.config.mask, rng)
        expected = slow_entropy(model(ranks, plan), ranks, plan, smoothing)
        assert task.loss(model, batch, seeded(1)).loss.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["lut", "lut on simmim", "lut alone"])
@pytest.mark.parametrize("weight", [0.1, 0.25, 0.5, 1.0])
def test_lut_is_reconstruction_and_weighted_agreement_with_the_teacher(name, weight):
    settings = TWO_VIEWS[name]
    task = make_task(**{**settings, "lut": {**settings["lut"], "weight": weight}})
    model, batch, rng = make_model(task), make_batch(FACTS, 5), seeded(1)
    other = make_model(task, seed=3)  # a teacher that is not the student
    model.context.restart(other.encoder)
    first, second = views(task, batch, rng)
    plan, next_plan = draw_disjoint_plans((5, POSITIONS), task.config.mask, rng)
    context, crossed = model.context, []
    students = [
        context.predictor(context.projector(slow_seen_mean(model, ranks, p)))
        for ranks, p in ((first, plan), (second, next_plan))
    ]
    teachers = []
    for ranks in (first, second):
        everything = other.encode(ranks, unmasked(5))[:, 1:]
        teachers.append(context.teacher_projector(everything.mean(dim=1)))
    for student, teacher in ((students[0], teachers[1]), (students[1], teachers[0])):
        for a, b in zip(student.tolist(), teacher.tolist(), strict=True):
            cosine = sum(x * y for x, y in zip(a, b, strict=True))
            cosine /= math.hypot(*a) * math.hypot(*b)
            crossed.append(2 - 2 * cosine)
    agreement = sum(crossed) / len(crossed)
    expected = weight * agreement
    if name != "lut alone":
        expected += slow_entropy(model(first, plan), first, plan)
    result = task.loss(model, batch, seeded(1))
    assert result.loss.item() == pytest.approx(expected, abs=1e-4)
    assert result.scalars["context"].item() == pytest.approx(agreement, abs=1e-4)


def unmasked(count):
    places = torch.arange(POSITIONS).expand(count, -1)
    return MaskPlan(places, torch.zeros_like(places, dtype=torch.bool), places[:, :0])


def test_mage_c_adds_a_tenth_of_the_contrast_between_two_views():
    task, batch = make_task(**TWO_VIEWS["mage-c"]), make_batch(FACTS, 5)
    model, rng = make_model(task), seeded(1)
    first, second = views(task, batch, rng)
    plans = [draw_plan((5, POSITIONS), task.config.mask, rng) for _ in range(2)]
    pooled = [slow_seen_mean(model, r, p) for r, p in zip((first, second), plans, strict=True)]
    vectors = torch.stack([model.context.projector(p) for p in pooled])
    expected = slow_entropy(model(first, plans[0]), first, plans[0], 0.1)
    expected += 0.1 * slow_nt_xent(vectors)
    assert task.loss(model, batch, seeded(1)).loss.item() == pytest.approx(expected, abs=1e-4)


def slow_nt_xent(vectors, temperature=0.2):
    flat = [(i, v) for view in vectors.tolist() for i, v in enumerate(view)]
    losses = []
    for n, (image, a) in enumerate(flat):
        scores = {
            m: sum(x * y for x, y in zip(a, b, strict=True))
            / (math.hypot(*a) * math.hypot(*b) * temperature)
            for m, (_, b) in enumerate(flat)
            if m != n
        }
        partner = next(m for m, (i, _) in enumerate(flat) if m != n and i == image)
        total = sum(math.exp(score) for score in scores.values())
        losses.append(-math.log(math.exp(scores[partner]) / total))
    return sum(losses) / len(losses)


def test_the_contrastive_loss_is_simclrs():
    vectors = torch.randn(2, 6, 5, generator=seeded(2))
    losses = nt_xent(vectors, 0.2)
    assert losses.shape == (6,)
    assert losses.mean().item() == pytest.approx(slow_nt_xent(vectors), abs=1e-5)
    alike = torch.stack([vectors[0], vectors[0]])
    assert nt_xent(alike, 0.2).mean() < losses.mean()


# ------------------------------------------------------------------------------------ masks


def seen(plan, image):
    return {
        p
        for p, hidden in zip(plan.kept[image].tolist(), plan.hidden[image].tolist(), strict=True)
        if not hidden
    }


def test_the_second_view_of_lut_sees_as_many_positions_none_of_them_the_firsts():
    for seed in range(60):
        plan, other = draw_disjoint_plans((3, POSITIONS), METHODS["lut"].masks, seeded(seed))
        for image in range(3):
            ours, theirs = seen(plan, image), seen(other, image)
            assert len(ours) == len(theirs) >= 1 and not ours & theirs


def test_the_second_view_sees_the_positions_that_come_next_in_the_order_of_the_first():
    for seed in range(20):
        plan, other = draw_disjoint_plans((2, POSITIONS), METHODS["lut"].masks, seeded(seed))
        count = len(seen(plan, 0))
        for image in range(2):
            assert seen(other, image) == set(plan.masked[image, -count:].tolist())


def test_lut_alone_is_judged_on_disjoint_positions_of_every_image():
    task = make_task(**TWO_VIEWS["lut alone"])
    model, batch = make_model(task).eval(), make_batch(FACTS, 6)
    calls = []
    model.register_forward_pre_hook(lambda module, inputs: calls.append(inputs))
    with torch.no_grad():
        metrics = task.evaluate(model, [batch])
    assert set(metrics) == {"val_loss"}
    _, plan, other = calls[0]
    counts = fixed_plan(batch.index, POSITIONS, task.config.mask)[1].tolist()
    for image, count in enumerate(counts):
        assert len(seen(plan, image)) == len(seen(other.plan, image)) == POSITIONS - count
        assert not seen(plan, image) & seen(other.plan, image)


def test_masks_are_as_published_unless_a_recipe_says_otherwise():
    found = {name: make_task(**settings).config.mask for name, settings in ALL.items()}
    assert (found["mtm"].low, found["mtm"].mean, found["mtm"].deviation) == (0.4, 0.45, 0.25)
    assert (found["mage"].low, found["mage"].mean, found["mage"].high) == (0.5, 0.55, 1.0)
    assert (found["lut"].low, found["lut"].high) == (0.5, 1.0)
    assert found["simmim"] == found["lut on simmim"]
    assert (found["simmim"].low, found["simmim"].high, found["simmim"].dropped) == (0.6, 0.6, 0)
    partly = make_task(method="mage", mask={"high": 0.9}).config.mask
    assert (partly.low, partly.high) == (0.5, 0.9)


# --------------------------------------------------------------- what enters the encoder


@pytest.mark.parametrize("name", ALL)
def test_the_length_of_the_encoders_input_is_what_the_masks_leave(name):
    task = make_task(**ALL[name])
    model, lengths = make_model(task), []
    model.encoder.blocks[0].register_forward_hook(
        lambda module, inputs, output: lengths.append(inputs[0].shape[1])
    )
    for seed in range(3):
        task.loss(model, make_batch(FACTS, 2), seeded(seed))
    kept = {"mtm": 29, "mage": 24, "mage-c": 24, "lut": 24, "lut alone": 24}.get(name, 49)
    assert set(lengths) == {1 + kept}


def test_dropped_positions_cost_the_encoder_nothing():
    """Matrix products of a block are linear in the length, those of attention quadratic."""
    counts = {}
    for name in ("mtm", "simmim"):
        task = make_task(method=name)
        model, batch = make_model(task), make_batch(FACTS, 2)
        plan = draw_plan((2, POSITIONS), task.config.mask, seeded(0))
        patches = model.encoder.tokenize(batch.ranks[:, :14, :14])[:, : plan.kept.shape[1]]
        with FlopCounterMode(display=False) as counter:
            model.encoder.encode(patches)
        counts[name] = counter.get_total_flops()
        length, width = 1 + plan.kept.shape[1], 24
        linear = 2 * length * width * width * (3 + 1 + 4 + 4)
        attention = 2 * 2 * length * length * width
        assert counts[name] == 2 * 2 * (linear + attention)  # images, blocks
    assert counts["mtm"] < 0.6 * counts["simmim"]  # 30 and 50 tokens


@pytest.mark.parametrize("name", ["mtm", "mage", "lut"])
def test_no_prediction_of_a_seen_position_gets_a_gradient(name):
    task = make_task(**ALL[name])
    model, outputs = make_model(task), []

    def keep(module, inputs, output):
        output.retain_grad()
        outputs.append(output)

    model.decoder_norm.register_forward_hook(keep)
    result = task.loss(model, make_batch(FACTS, 2), seeded(1))
    result.loss.backward()
    masked = round(result.scalars["mask_ratio"].item() * POSITIONS)
    touched = outputs[0].grad.abs().sum(dim=2) > 0
    assert touched.sum(dim=1).tolist() == [masked, masked]


# ------------------------------------------------------------------------------- the teacher


def test_the_teacher_follows_by_a_momentum_that_rises_to_one_by_a_cosine():
    task = make_task(**TWO_VIEWS["lut"])
    model = make_model(task)
    for progress in (0.0, 0.3, 1.0):
        teacher = model.context.teacher_encoder.blocks[0].attn.qkv.weight
        model.context.restart(make_model(task, seed=1).encoder)
        before, student = teacher.clone(), model.encoder.blocks[0].attn.qkv.weight
        task.after_step(model, progress)
        momentum = 1 - 0.004 * (math.cos(math.pi * progress) + 1) / 2
        assert torch.allclose(teacher, momentum * before + (1 - momentum) * student, atol=1e-7)


def test_the_teacher_starts_as_its_student_and_never_gets_a_gradient():
    task = make_task(**TWO_VIEWS["lut"])
    model = make_model(task)
    students = model.encoder.state_dict()
    assert all(
        torch.equal(w, students[n]) for n, w in model.context.teacher_encoder.state_dict().items()
    )
    task.loss(model, make_batch(FACTS, 4), seeded(1)).loss.backward()
    teachers = [p for n, p in model.named_parameters() if "teacher" in n]
    assert teachers and all(p.grad is None and not p.requires_grad for p in teachers)


def test_a_run_that_starts_from_another_method_has_a_teacher_like_its_student():
    task, donor = make_task(**TWO_VIEWS["lut"]), make_task(method="mtm")
    model, weights = make_model(task), make_model(donor, seed=5).state_dict()
    report = task.load_init(model, weights)
    assert "encoder.blocks.0.norm1.weight" in report.loaded
    name = "blocks.1.mlp.fc1.weight"
    assert torch.equal(
        model.context.teacher_encoder.get_parameter(name), weights[f"encoder.{name}"]
    )


def test_a_lut_run_that_goes_on_from_another_keeps_its_teacher():
    task = make_task(**TWO_VIEWS["lut"])
    donor = make_model(task, seed=5)
    donor.context.restart(make_model(task, seed=6).encoder)
    model, name = make_model(task), "context.teacher_encoder.blocks.1.mlp.fc1.weight"
    task.load_init(model, donor.state_dict())
    assert torch.equal(model.get_parameter(name), donor.get_parameter(name))


# --------------------------------------------------------------------------- afterwards


@pytest.mark.parametrize("name", ALL)
def test_a_classifier_starts_from_the_encoder_of_every_method(name):
    donor = make_model(make_task(**ALL[name]), seed=4).state_dict()
    model = {**VIT, "stem": "conv2x2", "embedding": "ids", "ids": {"width": 8}}
    config = ClassifyConfig(
        **{**RUN, "task": "classify"}, model=model, augment=[{"random_crop": {}}]
    )
    task = Classification(config, FACTS)
    fresh = task.build_model()
    report = task.load_init(fresh, donor)
    assert report.new == ["head.bias", "head.weight"] and not report.resized
    for name in report.loaded:
        assert torch.equal(fresh.state_dict()[name], donor[f"encoder.{name}"])


# ---------------------------------------------------------------------------------- refusals


def test_lut_is_refused_where_two_views_cannot_be_disjoint():
    with pytest.raises(TrainingError, match=r"mask.low is 0.3. Set mask.low=0.5"):
        make_task(method="lut", mask={"low": 0.3})


@pytest.mark.parametrize("settings", [ALL["simmim"], ALL["lut on simmim"]])
def test_simmim_is_refused_where_positions_are_dropped(settings):
    with pytest.raises(TrainingError, match=r"mask.dropped is 0.5. Set mask.dropped=0"):
        make_task(**settings, mask={"dropped": 0.5})


def settings_error(*overrides):
    with pytest.raises(UsageError) as caught:
        make_config(MtmConfig, RUN, overrides, origin="r")
    return str(caught.value)


def test_settings_of_another_method_are_refused():
    message = settings_error("method=mage", "lut.weight=0.5")
    assert "the keys lut.* belong to method lut, and the method is mage" in message


def test_an_unknown_method_or_key_is_told_with_the_known_ones():
    assert "'mtm', 'lut', 'simmim' or 'mage'" in settings_error("method=mae")
    with pytest.raises(UnknownName, match=r"lut\.weight"):
        make_config(MtmConfig, RUN, ["method=lut", "lut.wieght=0.5"], origin="r")


def test_a_configuration_is_read_back_as_it_was_written():
    for settings in ALL.values():
        config = make_task(**settings).config
        assert MtmConfig.model_validate(config.model_dump(mode="json")) == config


def test_more_positions_cannot_be_dropped_than_are_masked():
    with pytest.raises(ValueError, match=r"dropped=0.6 of the positions cannot all be masked"):
        MaskConfig(low=0.5, dropped=0.6)


def test_mage_without_contrast_has_no_projection():
    scene = make_task(method="mage").method.scene
    assert isinstance(scene, Scene)
    assert Mage(scene, MageOptions()).build_model().context is None
