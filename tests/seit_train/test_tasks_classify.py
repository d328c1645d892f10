"""Classification as a task: loss, evaluation, initialisation."""

import dataclasses

import pytest
import torch
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy

from seit_train.augment.base import View
from seit_train.augment.compose import make_augmentation
from seit_train.scoring import smooth_targets
from seit_train.tasks.classify import Classification, ClassifyConfig
from seit_train.tasks.mtm import MaskedTokenModelling, MtmConfig
from tests.toy_facts import make_batch, make_facts, seeded
from tokenstore.errors import TrainingError

RUN = {"steps": 10, "batch_size": 8, "lr": 1e-3}
VIT = {"width": 24, "depth": 2, "heads": 3, "drop_path": 0.0}
IDS = {**VIT, "stem": "conv2x2", "embedding": "ids", "ids": {"width": 8, "dropout": 0.0}}
FACTS = make_facts(side=16, classes=7)


def make_task(facts=FACTS, **settings):
    config = ClassifyConfig(task="classify", **RUN, **{"model": VIT, **settings})
    return Classification(config, facts)


def make_model(task, seed=0):
    torch.manual_seed(seed)
    return task.build_model()


def masked_run(facts=FACTS):
    config = MtmConfig(task="mtm", **RUN, model={"encoder": VIT, "ids": {"width": 8}})
    torch.manual_seed(5)
    return MaskedTokenModelling(config, facts).build_model()


def test_the_loss_of_a_step_equals_the_slow_reference():
    task, batch = make_task(), make_batch(FACTS, 6)
    model = make_model(task)
    rows = [[0.9 * (label == c) + 0.1 / 7 for c in range(7)] for label in batch.labels.tolist()]
    view = task.policy(batch.ranks, torch.tensor(rows), seeded(1))
    logits = model(view.tokens).double()
    shares = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
    slow = -(view.targets.double() * shares.log()).sum(dim=1).mean()
    assert task.loss(model, batch, seeded(1)).loss.item() == pytest.approx(slow.item(), abs=1e-5)


def test_smoothing_and_mixing_equal_timms():
    labels, logits = torch.tensor([0, 3, 6]), torch.randn(3, 7, generator=seeded(2))
    ours = smooth_targets(labels, 7, 0.1)
    share = torch.tensor(0.3)
    timms = mixup_target(labels, 7, lam=0.3, smoothing=0.1)
    mixed = share * ours + (1 - share) * ours.flip(0)
    assert torch.allclose(mixed, timms)
    assert torch.allclose(
        torch.nn.functional.cross_entropy(logits, mixed), SoftTargetCrossEntropy()(logits, timms)
    )


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_the_targets_of_mixed_images_are_timms(name):
    """Channel i of image i is 1: what is left of each image shows in its tokens."""
    labels = torch.arange(20) % 7
    grids = torch.eye(20)[:, :, None, None].expand(20, 20, 6, 6)
    mix = make_augmentation({name: {}}, FACTS.surroundings)
    mixed, targets, _ = mix(View(grids, smooth_targets(labels, 7, 0.1)), seeded(4))
    for image, shares in enumerate(mixed.mean(dim=(2, 3))):
        others = [n for n in shares.nonzero()[:, 0].tolist() if n != image]
        pair = labels[[image, *others]]
        pair = pair if others else pair.repeat(2)
        timms = mixup_target(pair, 7, lam=shares[image].item(), smoothing=0.1)[0]
        assert torch.allclose(targets[image], timms, atol=1e-5)


def test_validation_counts_labels_among_the_best_one_and_five():
    task, batch = make_task(), make_batch(FACTS, 40)
    model = make_model(task).eval()
    with torch.no_grad():
        metrics = task.evaluate(model, [batch])
        logits = model(task.policy.plain(batch.ranks))
    order = logits.argsort(dim=1, descending=True).tolist()
    places = [row.index(label) for row, label in zip(order, batch.labels.tolist(), strict=True)]
    assert metrics["val_top1"] == sum(place < 1 for place in places) / 40
    assert metrics["val_top5"] == sum(place < 5 for place in places) / 40
    expected = torch.nn.functional.cross_entropy(logits, batch.labels).item()
    assert metrics["val_loss"] == pytest.approx(expected, abs=1e-6)


def test_with_fewer_than_five_classes_the_top_five_are_all():
    facts = make_facts(side=16, classes=3)
    task = make_task(facts)
    assert task.evaluate(make_model(task).eval(), [make_batch(facts, 9)])["val_top5"] == 1.0


def test_it_starts_from_the_encoder_of_a_masked_run():
    task, donor = make_task(model=IDS), masked_run()
    model = make_model(task)
    report = task.load_init(model, donor.state_dict())
    assert report.new == ["head.bias", "head.weight"]
    assert not report.resized
    assert "decoder_embed.weight" in report.unused
    given = donor.state_dict()
    for name in report.loaded:
        assert torch.equal(model.state_dict()[name], given[f"encoder.{name}"])


def test_positions_follow_a_finer_crop():
    task = make_task(model=IDS, augment=[{"random_crop": {"size": 16}}])
    report = task.load_init(make_model(task), masked_run().state_dict())
    assert report.resized == ["pos_embed"]


def test_a_stem_of_the_other_kind_starts_fresh_even_where_its_shape_fits():
    task = make_task(make_facts(side=16, width=8), model={**VIT, "stem": "conv2x2"})
    model = make_model(task)
    kernel = model.patch_embed.proj.weight.clone()
    report = task.load_init(model, masked_run().state_dict())
    assert "patch_embed.proj.weight" in report.new
    assert torch.equal(model.patch_embed.proj.weight, kernel)
    assert "blocks.0.attn.qkv.weight" in report.loaded


def test_another_classifier_gives_its_head_only_where_the_classes_are_as_many():
    task = make_task()
    same = task.load_init(make_model(task), make_model(task, seed=1).state_dict())
    assert "head.weight" in same.loaded
    other = make_task(make_facts(side=16, classes=4))
    report = task.load_init(make_model(task), make_model(other).state_dict())
    assert "head.weight" in report.new and "blocks.0.norm1.weight" in report.loaded


def test_another_size_of_model_is_refused():
    task = make_task(model={**IDS, "width": 48})
    with pytest.raises(TrainingError, match="Give both runs the same model settings"):
        task.load_init(make_model(task), masked_run().state_dict())


def test_a_store_without_labels_or_codebook_is_refused_with_the_cure():
    with pytest.raises(TrainingError, match="needs labels"):
        make_task(dataclasses.replace(FACTS, classes=()))
    bare = dataclasses.replace(FACTS, codebook=None)
    with pytest.raises(TrainingError, match="embedding=ids"):
        make_task(bare, augment=[])
    learned = make_task(bare, model=IDS, augment=[{"random_crop": {}}, {"cutmix": {}}])
    assert learned.loss(make_model(learned), make_batch(bare, 3), seeded(3)).loss.isfinite()


def test_a_split_without_labels_is_refused():
    task = make_task()
    batch = dataclasses.replace(make_batch(FACTS, 2), labels=None)
    with pytest.raises(TrainingError, match="without labels"):
        task.loss(make_model(task), batch, seeded(4))
