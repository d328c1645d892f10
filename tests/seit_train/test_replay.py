"""Continual learning: tasks one after the other, and a memory of so many bytes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from seit_train.cli.main import main
from seit_train.config import DataConfig
from seit_train.pictures import open_pictures
from seit_train.replay import Replay, ReplayPlan, tasks_of_classes
from seit_train.scoring import Scored, hits
from tokenstore.errors import UsageError
from tokenstore.order import description_of
from tokenstore.reader import open_store
from tokenstore.sizes import measure, record_sizes

LABELS = np.random.default_rng(0).integers(0, 6, 300)
SIZES = np.random.default_rng(1).integers(50, 150, 300)
PLAN = ReplayPlan(tasks=3, passes=2, memory=2000, fresh=6, batch_size=10, seed=4)

RECIPE = """
classify:
  epochs: 4
  batch_size: 8
  lr: 0.02
  optim: {optimizer: sgd, schedule: constant}
  loop: {precision: fp32}
  data: {replay: {memory: 3000, passes: 1}}
  model: {backbone: resnet18-third, drop_path: 0.0}
  augment: []
pixels:
  epochs: 4
  batch_size: 8
  lr: 0.02
  data: {replay: {memory: 3000, passes: 1}}
  model: {backbone: resnet18-third, drop_path: 0.0}
  image_size: 56
  rand_augment: null
  mixing: []
  workers: 0
"""


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    return file


def make(**changes):
    return Replay(LABELS, SIZES, replace(PLAN, **changes))


def rows(order, task):
    """Sample numbers of a task, int64 [steps, batch_size]."""
    return order.at(task, np.arange(len(order))).reshape(order.steps, -1)


def task_of(order):
    return tasks_of_classes(6, order.plan.tasks, order.plan.seed)[LABELS]


def test_classes_are_dealt_to_tasks_evenly_and_by_seed():
    dealt = [tasks_of_classes(10, 5, seed) for seed in range(4)]
    assert all(np.bincount(one).tolist() == [2] * 5 for one in dealt)
    assert len({tuple(one) for one in dealt}) > 1
    with pytest.raises(UsageError, match="6 classes do not make 7 tasks"):
        tasks_of_classes(6, 7, 0)


@pytest.mark.parametrize("task", range(3))
def test_fresh_rows_are_the_images_of_the_task_pass_after_pass(task):
    order = make()
    own = np.flatnonzero(task_of(order) == task)
    fresh = rows(order, task)[:, : PLAN.fresh].ravel()
    assert set(fresh[: len(own)].tolist()) == set(own.tolist())
    assert set(fresh.tolist()) == set(own.tolist())
    assert order.steps == round(2 * 300 / 3 / 6)


def test_the_other_rows_come_from_the_memory_as_it_was_before_the_batch():
    order = make()
    for task in range(3):
        for step, batch in enumerate(rows(order, task)[:20]):
            memory = order.remembered(task, step)
            drawn = batch[PLAN.fresh :]
            if len(memory):
                assert np.isin(drawn, memory).all()
            else:
                assert (task, step) == (0, 0)
                assert (task_of(order)[drawn] == 0).all()


def test_the_memory_holds_what_was_seen_and_as_much_as_fits():
    order = make()
    fullest = 0
    for task in range(3):
        seen = set(np.flatnonzero(task_of(order) < task).tolist())
        for step, batch in enumerate(rows(order, task)):
            memory = order.remembered(task, step)
            assert set(memory.tolist()) <= seen
            fullest = max(fullest, int(SIZES[memory].sum()))
            assert SIZES[memory].sum() <= 2000
            if len(memory) < len(seen):
                assert SIZES[memory].sum() > 2000 - SIZES.max()
            seen |= set(batch[: PLAN.fresh].tolist())
    assert fullest > 1900


def test_what_is_forgotten_never_comes_back():
    order = make()
    before, gone = set(), set()
    for task in range(3):
        for step in range(order.steps):
            now = set(order.remembered(task, step).tolist())
            gone |= before - now
            assert not gone & now
            before = now


def test_the_memory_is_a_uniform_sample_of_all_that_was_seen():
    share = np.zeros(3)
    for seed in range(60):
        order = make(seed=seed, memory=6000)
        kept = task_of(order)[order.remembered(2, order.steps)]
        share += np.bincount(kept, minlength=3) / np.bincount(task_of(order), minlength=3)
    assert share / 60 == pytest.approx(share.mean() / 60, rel=0.1)


def test_without_room_every_row_is_of_the_task():
    order = make(memory=0)
    assert all((task_of(order)[rows(order, task)] == task).all() for task in range(3))


def test_any_positions_give_what_the_whole_task_has():
    order = make()
    whole = order.at(1, np.arange(len(order)))
    some = np.array([7, 123, 8, 55])
    assert np.array_equal(order.at(1, some), whole[some])


def test_another_memory_is_another_order():
    assert description_of(make()) == description_of(make())
    assert description_of(make()) != description_of(make(memory=1999))


def test_record_sizes_are_those_of_the_index(scene_store):
    store = open_store(str(scene_store))
    sizes = measure(store.storage, store.manifest)
    for name, split in store.splits.items():
        found = record_sizes(split)
        assert (len(found), found.sum()) == (len(split), sizes.splits[name].records)
        assert found.min() > 2


def test_hits_are_counted_task_by_task():
    labels = torch.tensor([0, 1, 2, 2, 3])
    logits = torch.nn.functional.one_hot(torch.tensor([0, 0, 2, 2, 3]), 4).float()
    valid = torch.tensor([True, True, True, True, False])
    told = hits([Scored(logits, labels, valid)], torch.device("cpu"), torch.tensor([0, 0, 1, 2]))
    assert told["val_top1"] == 0.75
    assert [told[f"val_top1/task {n}"] for n in (1, 2, 3)] == [0.5, 1.0, 0.0]


@pytest.mark.parametrize("task", ["classify", "pixels"])
def test_a_run_learns_task_by_task_and_says_what_it_knows_of_each(
    task, scene_store, scene_corpus, recipe, tmp_path
):
    corpus = scene_store if task == "classify" else scene_corpus
    words = [task, str(corpus), "-o", str(tmp_path / "run"), "--recipe", str(recipe)]
    ran = CliRunner().invoke(main, words)
    assert ran.exit_code == 0, ran.output
    lines = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    told = [line for line in map(json.loads, lines) if "val_top1" in line]
    assert [line["epoch"] for line in told] == [1.0, 2.0, 3.0, 4.0]
    for line in told:
        shares = [line[f"val_top1/task {n}"] for n in range(1, 5)]
        assert line["val_top1"] == pytest.approx(sum(shares) / 4)


def test_a_picture_takes_the_bytes_of_its_file(scene_corpus):
    split = open_pictures(str(scene_corpus)).splits["train"]
    files = [scene_corpus / "train" / item.path.rpartition("train/")[2] for item in split.items]
    assert split.file_sizes.tolist() == [file.stat().st_size for file in files]


def test_an_epoch_is_a_task_so_steps_are_refused(scene_store, recipe, tmp_path):
    words = ["classify", str(scene_store), "-o", str(tmp_path / "run"), "--recipe", str(recipe)]
    ran = CliRunner().invoke(main, [*words, "steps=7"])
    assert ran.exit_code == 2
    assert "with data.replay an epoch is a task" in ran.stderr


def test_other_orders_are_refused_beside_it():
    with pytest.raises(ValueError, match="tasks with a memory have an order of their own"):
        DataConfig(replay={"memory": 1}, fraction=0.5)


def test_labels_are_needed():
    with pytest.raises(UsageError, match="this split has no labels"):
        Replay(None, SIZES, PLAN)
