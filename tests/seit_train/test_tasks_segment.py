"""Segmentation as a task: loss, metrics, windows, masks that go along with augmentations."""

import dataclasses

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from seit_train.augment.base import View
from seit_train.augment.compose import make_augmentation
from seit_train.tasks.base import MaskFacts
from seit_train.tasks.classify import Classification, ClassifyConfig
from seit_train.tasks.mtm import MaskedTokenModelling, MtmConfig
from seit_train.tasks.segment import Segmentation, SegmentConfig
from tests.toy_facts import make_batch, make_facts, seeded
from tokenstore.errors import TrainingError

RUN = {"steps": 10, "batch_size": 8, "lr": 1e-3}
VIT = {"width": 24, "depth": 2, "heads": 3, "drop_path": 0.0}
SMALL = {**VIT, "head": "convolutions"}
IDS = {**SMALL, "embedding": "ids", "ids": {"width": 8, "dropout": 0.0}}
SCALE = 4
CROP = [{"random_crop": {"size": 6}}]


def with_masks(side=8, classes=3, ignore=9):
    names = tuple(f"stuff {number}" for number in range(classes))
    facts = make_facts(side=side, classes=0)
    return dataclasses.replace(facts, masks=MaskFacts((side * SCALE,) * 2, names, ignore))


FACTS = with_masks()


def make_task(facts=FACTS, **settings):
    config = SegmentConfig(task="segment", **RUN, **{"model": SMALL, **settings})
    return Segmentation(config, facts)


def make_model(task, seed=0):
    torch.manual_seed(seed)
    return task.build_model()


def masked_batch(facts=FACTS, count=5):
    batch = make_batch(facts, count)
    values = torch.tensor([*range(len(facts.masks.classes)), facts.masks.ignore])
    shape = (count, *facts.masks.size)
    masks = values[torch.randint(len(values), shape, generator=seeded(3))]
    return dataclasses.replace(batch, labels=None, masks=masks.to(torch.uint8))


def test_the_loss_is_the_mean_over_pixels_whose_class_is_known():
    task, batch = make_task(), masked_batch()
    model = make_model(task)
    logits = model(task.policy.plain(batch.ranks)).classes.double()
    logs = logits - logits.exp().sum(dim=1, keepdim=True).log()
    masks = batch.masks.long()
    places = (masks != 9).nonzero().tolist()
    slow = -np.mean([logs[n, masks[n, y, x], y, x].item() for n, y, x in places])
    assert task.loss(model, batch, seeded(1)).loss.item() == pytest.approx(slow, abs=1e-5)


@pytest.mark.parametrize("augment", [(), CROP], ids=["whole", "windows"])
def test_metrics_equal_torchmetrics_on_whole_images(augment):
    task, batch = make_task(augment=augment), masked_batch(count=7)
    model = make_model(task).eval()
    with torch.no_grad():
        metrics = task.evaluate(model, [batch])
        guess = task.predict(model, batch.ranks).argmax(dim=1)
    truth = batch.masks.long()
    assert guess.shape == truth.shape
    judge = MulticlassJaccardIndex(3, average="none", ignore_index=9)
    iou = judge(guess, truth).tolist()
    assert [metrics[f"val_iou/stuff {c}"] for c in range(3)] == pytest.approx(iou)
    assert metrics["val_miou"] == pytest.approx(np.mean(iou))
    known = truth != 9
    right = (guess[known] == truth[known]).double().mean().item()
    assert metrics["val_pixel_accuracy"] == pytest.approx(right)


def test_a_class_that_is_nowhere_has_no_part_in_the_mean():
    facts = with_masks(classes=4)
    task, batch = make_task(facts), masked_batch(facts)
    batch = dataclasses.replace(batch, masks=batch.masks.where(batch.masks != 3, 9))
    model = make_model(task).eval()
    with torch.no_grad():
        model.head.bias.view(4, -1)[3] = -1e4
        metrics = task.evaluate(model, [batch])
    assert "val_iou/stuff 3" not in metrics
    assert metrics["val_miou"] == pytest.approx(
        np.mean([metrics[f"val_iou/stuff {c}"] for c in range(3)])
    )


def test_rows_that_pad_a_batch_do_not_count():
    task, batch = make_task(), masked_batch(count=6)
    model = make_model(task).eval()
    valid = torch.tensor([True] * 4 + [False] * 2)
    with torch.no_grad():
        padded = task.evaluate(model, [dataclasses.replace(batch, valid=valid)])
        alone = task.evaluate(model, [batch.rows(slice(4))])
    assert padded == pytest.approx(alone)


def test_overlapping_windows_are_averaged():
    task, batch = make_task(augment=CROP), masked_batch(count=2)
    model = make_model(task).eval()
    with torch.no_grad():
        whole = task.predict(model, batch.ranks)
        parts = [
            model(task.policy.plain(batch.ranks[:, y : y + 6, x : x + 6])).classes
            for y in (0, 2)
            for x in (0, 2)
        ]
    corner = whole[:, :, : 2 * SCALE, : 2 * SCALE]
    assert torch.allclose(corner, parts[0][:, :, : 2 * SCALE, : 2 * SCALE], atol=1e-5)
    middle = [  # rows and columns 2..5 of the grid, as each of the four windows sees them
        part[:, :, y : y + 4 * SCALE, x : x + 4 * SCALE]
        for part, (y, x) in zip(parts, [(8, 8), (8, 0), (0, 8), (0, 0)], strict=True)
    ]
    seen = whole[:, :, 2 * SCALE : 6 * SCALE, 2 * SCALE : 6 * SCALE]
    assert torch.allclose(seen, sum(middle) / 4, atol=1e-5)


@pytest.mark.parametrize("name", ["random_crop", "center_crop"])
def test_masks_are_cut_where_the_grid_is(name):
    place = torch.arange(64).view(1, 8, 8).expand(5, 8, 8)
    masks = place.repeat_interleave(SCALE, 1).repeat_interleave(SCALE, 2)
    crop = make_augmentation({name: {"size": [5, 6]}}, FACTS.surroundings)
    view = crop(View(place, None, masks), seeded(4))
    assert view.tokens.shape == (5, 5, 6)
    expected = view.tokens.repeat_interleave(SCALE, 1).repeat_interleave(SCALE, 2)
    assert torch.equal(view.masks, expected)


def test_masks_stay_with_their_images_through_halves_and_choices():
    entries = [
        {
            "halves": {
                "first": [{"random_crop": {"size": 6}}],
                "rest": [{"center_crop": {"size": 6}}],
            }
        },
        {"one_of": {"p": [0.5, 0.5], "of": [{"emb_noise": {}}, {"color_adapt": {}}]}},
    ]
    task = make_task(augment=[{"eda": {"swap_p": 0, "synonym_p": 1}}, *entries])
    batch = masked_batch(count=6)
    view = task.policy(batch.ranks, None, seeded(0), batch.masks.long())
    assert view.masks.shape == (6, 24, 24)
    middle = batch.masks[3:, SCALE : 7 * SCALE, SCALE : 7 * SCALE].long()
    assert torch.equal(view.masks[3:], middle)


@pytest.mark.parametrize(
    "entry", [{"cutmix": {}}, {"mixup": {}}, {"eda": {}}, {"random_resized_crop": {"size": 6}}]
)
def test_what_tears_images_from_their_masks_is_refused(entry):
    with pytest.raises(TrainingError, match="Leave it out of the augment list"):
        make_task(augment=[entry])


def test_a_store_without_masks_is_refused_with_the_cure():
    with pytest.raises(TrainingError, match="--masks DIR"):
        make_task(make_facts())


def test_masks_that_are_no_multiple_of_the_grid_are_refused():
    odd = dataclasses.replace(FACTS, masks=MaskFacts((30, 32), ("a", "b"), None))
    with pytest.raises(TrainingError, match="30x32 are no whole multiple of grids of 8x8"):
        make_task(odd)


def test_it_starts_from_the_encoder_of_a_masked_run_with_resized_positions():
    task = make_task(model=IDS)
    config = MtmConfig(
        task="mtm",
        **RUN,
        model={"encoder": VIT, "ids": {"width": 8}},
        augment=[{"random_crop": {"size": 6}}],
    )
    torch.manual_seed(5)
    donor = MaskedTokenModelling(config, FACTS).build_model().state_dict()
    model = make_model(task)
    report = task.load_init(model, donor)
    assert report.resized == ["encoder.pos_embed"]
    assert "encoder.patch_embed.ids.table.weight" in report.loaded
    assert all(not name.startswith("encoder.") for name in report.new)


def test_it_starts_from_a_classifier_and_leaves_its_head():
    facts = dataclasses.replace(FACTS, classes=("a", "b"))
    config = ClassifyConfig(task="classify", **RUN, model={**VIT, "stem": "conv2x2"}, augment=[])
    torch.manual_seed(6)
    donor = Classification(config, facts).build_model().state_dict()
    task = make_task()
    report = task.load_init(make_model(task), donor)
    assert "encoder.blocks.1.attn.qkv.weight" in report.loaded
    assert "encoder.head.weight" in report.unused and "head.weight" in report.new


def test_upernet_predicts_every_pixel_and_its_auxiliary_head_learns_too():
    facts = with_masks()
    task = make_task(facts, model={**VIT, "depth": 6, "head": "upernet"}, auxiliary=0.4)
    model, batch = make_model(task), masked_batch(facts, count=3)
    result = task.loss(model, batch, seeded(1))
    assert set(result.scalars) == {"main_loss", "auxiliary_loss"}
    expected = result.scalars["main_loss"] + 0.4 * result.scalars["auxiliary_loss"]
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    result.loss.backward()
    assert all(parameter.grad is not None for parameter in model.auxiliary.parameters())
    assert model.eval()(task.policy.plain(batch.ranks)).auxiliary is None


def test_upernet_reads_the_published_blocks_of_a_vit_b():
    task = make_task(with_masks(side=16), model={"width": 24, "depth": 12, "heads": 3})
    assert make_model(task).behind == [3, 5, 7, 11]


def test_upernet_on_a_shallow_vit_is_refused_with_the_cure():
    with pytest.raises(TrainingError, match="model.head=convolutions"):
        make_model(make_task(model={**VIT, "head": "upernet"}))


@pytest.mark.parametrize("head", ["convolutions", "upernet"])
@pytest.mark.parametrize("embedding", ["ids", "codebook"])
def test_every_weight_learns_as_training_in_several_processes_asks(head, embedding):
    task = make_task(model={**IDS, "depth": 6, "head": head, "embedding": embedding})
    model = make_model(task)
    task.loss(model, masked_batch(count=3), seeded(1)).loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []


def test_layers_decay_from_the_head_to_the_stem():
    task = make_task()
    layers = {name: task.layer_of(name) for name, _ in make_model(task).named_parameters()}
    assert layers["encoder.patch_embed.proj.weight"] == 0
    assert layers["encoder.blocks.1.attn.qkv.weight"] == 2
    assert layers["head.weight"] == 3
