"""The loop: it learns, it resumes bit for bit, it stops where it must, and it keeps its word."""

import os
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seit_train import trainer as trainer_module
from seit_train.checkpoint import load_checkpoint
from seit_train.distributed import World
from seit_train.launch import requested_config, train
from seit_train.metrics import read_metrics
from seit_train.run import Run, StoreIdentity
from seit_train.scoring import smooth_targets
from seit_train.trainer import Trainer
from tests.seit_train.toy_task import ToyTask
from tests.toy_store import ToyStore, write_toy_store
from tokenstore.errors import Interrupted, TrainingError
from tokenstore.reader import open_store

VARIANTS = {
    "plain": ("toy",),
    "averaged": ("toy", "loop.ema=0.9"),
    "accumulating": ("toy", "loop.accumulate=2"),
    "sgd": ("toy", "optim.optimizer=sgd", "optim.layer_decay=0.5"),
    "mtm": ("mtm",),
    "lut": ("mtm", "method=lut", "lut.context.hidden=16", "lut.context.out=8"),
    "classify": ("classify",),
    "a share, balanced, repeated": (
        "toy",
        "data.fraction=0.7",
        "data.sampling=class-balanced",
        "data.repeats=2",
    ),
}


def kill_in_step(monkeypatch, number):
    """A SIGTERM comes while step `number` is at work."""
    step = Trainer._train_step

    def killed(trainer, *arguments):
        if trainer.step + 1 == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, *arguments)

    monkeypatch.setattr(Trainer, "_train_step", killed)


def losses(folder):
    return [(line["step"], line.get("loss"), line.get("val_loss")) for line in read_metrics(folder)]


def test_the_loop_learns(request_run):
    outcome = train(request_run("toy", "steps=40"))
    assert outcome.best > 0.9
    means = [line["loss"] for line in read_metrics(outcome.run.folder) if "loss" in line]
    assert means[-1] < means[0] / 2


def test_metrics_have_the_promised_names(request_run):
    outcome = train(request_run("toy"))
    lines = read_metrics(outcome.run.folder)
    assert [line["step"] for line in lines if "loss" in line] == [4, 8, 12]
    promised = {"step", "epoch", "loss", "lr", "images_per_second", "data_wait", "grad_norm"}
    logged = [line for line in lines if "loss" in line]
    assert all(set(line) >= promised for line in logged)
    assert [line["step"] for line in lines if "val_top1" in line] == [3, 6, 9, 12]
    assert all(0 <= line["data_wait"] <= 1 for line in logged)
    board = EventAccumulator(str(outcome.run.folder / "tensorboard")).Reload()
    shown = {f"train/{name}" for name in promised - {"step", "epoch"}}
    assert set(board.Tags()["scalars"]) >= shown | {"val/loss", "val/top1"}
    for line in logged:
        values = {event.step: event.value for event in board.Scalars("train/grad_norm")}
        assert values[line["step"]] == pytest.approx(line["grad_norm"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_that_was_stopped_ends_with_the_same_weights(request_run, monkeypatch, variant):
    whole = train(request_run(*VARIANTS[variant], folder="whole")).run
    with monkeypatch.context() as patch:
        kill_in_step(patch, 2)
        with pytest.raises(Interrupted, match=r"stopped as asked after step 2 of .*--resume"):
            train(request_run(*VARIANTS[variant], folder="cut"))
    cut = train(request_run(*VARIANTS[variant], folder="cut", resume=True)).run
    for name in ("model.safetensors", "state.safetensors"):
        expected, found = load_file(whole.last / name), load_file(cut.last / name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert losses(whole.folder)[-1] == losses(cut.folder)[-1]


def test_a_stopped_run_in_fp16_goes_on_with_the_scale_that_it_had(request_run, monkeypatch):
    """On a CPU the scaler works too; only `precision=fp16` is refused there, as nobody wants it."""
    monkeypatch.setattr("seit_train.trainer.resolve_precision", lambda *_: "fp16")
    whole = train(request_run("toy", folder="whole")).run
    with monkeypatch.context() as patch:
        kill_in_step(patch, 5)
        with pytest.raises(Interrupted):
            train(request_run("toy", folder="cut"))
    cut = train(request_run("toy", folder="cut", resume=True)).run
    ends = [load_checkpoint(run.last) for run in (whole, cut)]
    assert ends[0].state["scaler"] == ends[1].state["scaler"]
    assert ends[0].state["scaler"]["_growth_tracker"] == 12
    assert all(torch.equal(w, ends[1].weights[name]) for name, w in ends[0].weights.items())


def test_a_gradient_that_no_scale_makes_finite_stops_a_run_in_fp16(request_run, monkeypatch):
    """The scaler skips such steps: without a stop it would skip all of them to the end."""
    loss = ToyTask.loss

    def without_slope(task, model, batch, rng):
        result = loss(task, model, batch, rng)
        return result._replace(loss=result.loss + (0 * model.head.weight).sum().sqrt())

    monkeypatch.setattr("seit_train.trainer.resolve_precision", lambda *_: "fp16")
    monkeypatch.setattr(ToyTask, "loss", without_slope)
    long = ("steps=60", "loop.eval_every_epochs=99", "loop.save_every_epochs=99")
    with pytest.raises(TrainingError, match="gradient is not finite at step 36"):
        train(request_run("toy", *long))


@pytest.mark.slow
def test_a_compiled_run_learns_what_a_plain_one_does(request_run):
    plain = train(request_run("toy", "still=true", folder="plain")).run
    compiled = train(request_run("toy", "still=true", "loop.compile=on", folder="on")).run
    expected, found = (load_file(run.last / "model.safetensors") for run in (plain, compiled))
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-4)


def test_checkpoints_can_be_rarer_than_epochs_but_the_last_step_is_kept(request_run, monkeypatch):
    saved = []
    save = trainer_module.save_checkpoint

    def noting(folder, checkpoint):
        saved.append((folder.name, checkpoint.state["step"]))
        save(folder, checkpoint)

    monkeypatch.setattr(trainer_module, "save_checkpoint", noting)
    rare = ("loop.save_every_epochs=2", "loop.eval_every_epochs=9")
    train(request_run("toy", *rare))
    assert [step for name, step in saved if name == "last"] == [6, 12]


def test_steps_after_the_checkpoint_are_forgotten_and_run_again(request_run, monkeypatch):
    whole = train(request_run("toy", "loop.log_every=1", folder="whole")).run
    step = Trainer._train_step

    def powercut(trainer, *arguments):
        if trainer.step == 8:
            raise RuntimeError("power cut")
        return step(trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", powercut)
        with pytest.raises(RuntimeError, match="power cut"):
            train(request_run("toy", "loop.log_every=1", folder="cut"))
    resumed = request_run("toy", folder="cut", resume=True)
    cut = train(replace(resumed, recipe=None)).run
    assert losses(cut.folder) == losses(whole.folder)


def test_accumulating_changes_no_gradient_where_nothing_is_random(request_run):
    runs = [
        train(request_run("toy", "still=true", f"loop.accumulate={n}", folder=f"n{n}")).run
        for n in (1, 4)
    ]
    whole, parts = (load_file(run.last / "model.safetensors") for run in runs)
    for name, weight in whole.items():
        torch.testing.assert_close(weight, parts[name], rtol=1e-3, atol=1e-4)


def augmented_by_index(request, size, accumulate):
    """Of the third step: what each image of the global batch became, on `size` processes."""
    store, seen = open_store(request.store), {}
    config = requested_config(replace(request, overrides=(f"loop.accumulate={accumulate}",)))
    for rank in range(size):
        world = World(rank, size, torch.device("cpu"))
        run = Run(request.folder, config, StoreIdentity.of(store))
        trainer = Trainer(run, world, store["train"], None)
        policy = trainer.task.policy

        def look(model, batch, rng, policy=policy, task=trainer.task):
            targets = smooth_targets(batch.labels, 4, 0.0)
            view = policy(batch.ranks, targets, rng)
            images = zip(view.tokens, view.targets, strict=True)
            seen.update(zip(batch.index.tolist(), images, strict=True))
            return type(task).loss(task, model, batch, rng)

        trainer.task.loss = look
        trainer.step = 2
        trainer._train_step(trainer.model, next(trainer._endless_batches()))
    return seen


def test_a_global_batch_is_augmented_alike_on_any_number_of_processes(request_run):
    request = request_run("classify")
    alone = augmented_by_index(request, size=1, accumulate=4)
    assert len(alone) == 16
    for size, accumulate in [(2, 2), (4, 1)]:
        shared = augmented_by_index(request, size, accumulate)
        assert shared.keys() == alone.keys()
        for index, (tokens, targets) in alone.items():
            assert torch.equal(tokens, shared[index][0])
            assert torch.equal(targets, shared[index][1])


def test_a_loss_that_is_not_finite_stops_the_run_and_names_step_and_samples(request_run, store):
    with pytest.raises(TrainingError) as caught:
        train(request_run("toy", "poison=5", "batch_size=4", "loop.eval_every_epochs=0.25"))
    message = str(caught.value)
    assert store["train"][5].key in message
    assert "not finite at step" in message
    assert "lower lr" in message


def test_of_several_processes_each_names_its_own_loss_and_samples(request_run, store):
    request = request_run("toy", "poison=5")
    run = Run(request.folder, requested_config(request), StoreIdentity.of(store))
    trainer = Trainer(run, World(1, 2, torch.device("cpu")), store["train"], None)
    batch = next(trainer._endless_batches())
    message = str(trainer._nonfinite(trainer._train_step(trainer.model, batch)))
    assert "not finite at step 1 (in process 1 of 0 to 1: loss " in message
    assert store["train"][int(batch.index[0])].key in message


def test_the_checkpoint_before_a_bad_loss_is_kept(request_run, monkeypatch):
    loss, calls = ToyTask.loss, []

    def spoiled(task, model, batch, rng):
        calls.append(1)
        result = loss(task, model, batch, rng)
        return result._replace(loss=result.loss * (torch.nan if len(calls) == 8 else 1))

    monkeypatch.setattr(ToyTask, "loss", spoiled)
    request = request_run("toy", "loop.log_every=100")
    with pytest.raises(TrainingError, match="at step 8"):
        train(request)
    checkpoint = load_checkpoint(request.folder / "checkpoints" / "last")
    assert checkpoint.state["step"] == 6
    assert all(tensor.isfinite().all() for tensor in checkpoint.weights.values())


def test_best_is_the_checkpoint_with_the_best_metric(request_run, monkeypatch):
    shares = iter([0.5, 0.75, 0.25, 0.6])
    monkeypatch.setattr(ToyTask, "evaluate", lambda *_: {"val_top1": next(shares)})
    outcome = train(request_run("toy"))
    assert outcome.best == 0.75
    assert load_checkpoint(outcome.run.best).state["step"] == 6
    assert load_checkpoint(outcome.run.last).state["step"] == 12
    assert outcome.run.result() == outcome.run.best


def test_the_average_is_what_is_kept_as_the_model(request_run):
    outcome = train(request_run("toy", "loop.ema=0.5"))
    checkpoint = load_checkpoint(outcome.run.last)
    trained = checkpoint.tensors["model/head.weight"]
    assert not torch.equal(checkpoint.weights["head.weight"], trained)


def test_clipping_bounds_the_step_but_not_the_reported_norm(request_run):
    outcome = train(
        request_run("toy", "optim.clip_norm=1e-9", "optim.weight_decay=0", "optim.optimizer=sgd")
    )
    free = train(request_run("toy", "steps=1", folder="free"))
    start = load_file(free.run.last / "model.safetensors")["head.weight"]
    end = load_file(outcome.run.last / "model.safetensors")["head.weight"]
    assert (start - end).abs().max() < 0.1
    norms = [x["grad_norm"] for x in read_metrics(outcome.run.folder) if "grad_norm" in x]
    assert min(norms) > 1e-3


@pytest.mark.parametrize("counts", [{"train": 32}, {"train": 32, "val": 0}])
def test_a_store_without_val_trains_and_keeps_the_last(request_run, tmp_path, counts):
    only_train = write_toy_store(tmp_path / "s", ToyStore(counts))
    outcome = train(replace(request_run("toy"), store=only_train.url))
    assert outcome.best is None
    assert outcome.run.result() == outcome.run.last
