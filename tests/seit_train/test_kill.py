"""Runs that are killed without warning, and go on by the same command as if nothing had been."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from seit_train.launch import train
from seit_train.metrics import read_metrics
from seit_train.run import CONFIG, STORE, VOCABULARY
from tokenstore.errors import Interrupted

ROOT = Path(__file__).parents[2]

# Trains, and kills itself (kill -9) where it is told to, in the first process and once only: the
# file that says so is gone then.
PROGRAM = """
import os, signal, sys
from pathlib import Path
from seit_train import checkpoint, trainer
from seit_train.launch import TrainRequest, train
order, task, store, folder, recipe, *overrides = sys.argv[1:]
order = Path(order)

def die_at(place):
    if os.environ.get("RANK", "0") == "0" and order.exists() and order.read_text() == place:
        order.unlink()
        os.kill(os.getpid(), signal.SIGKILL)

step, name = trainer.Trainer._train_step, checkpoint._take_name
def stepping(self, *arguments):
    die_at(f"step {self.step + 1}")
    return step(self, *arguments)
saves = []
def naming(new, folder):
    saves.append(folder)
    die_at(f"save {len(saves)}")
    if folder.exists() and order.exists() and order.read_text() == f"rename {len(saves)}":
        folder.rename(checkpoint._beside(folder, "old"))
        die_at(f"rename {len(saves)}")
    name(new, folder)
trainer.Trainer._train_step, checkpoint._take_name = stepping, naming
train(TrainRequest(task, store, Path(folder), recipe, overrides, None, True))
"""

HARD = ("loop.ema=0.9", "loop.accumulate=2", "loop.log_every=1", "optim.clip_norm=1.0")


@pytest.fixture
def launch(plugins, store, recipe, tmp_path):
    """Runs the program, under torchrun where asked; gives the ended process."""
    program, order = tmp_path / "program.py", tmp_path / "order"
    program.write_text(PROGRAM)

    def start(place, folder, *overrides, launcher=(), task="toy"):
        order.unlink(missing_ok=True)
        if place is not None:
            order.write_text(place)
        words = [program, order, task, store.url, folder, recipe, *overrides]
        return subprocess.run(
            [sys.executable, *launcher, *(str(word) for word in words)],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{plugins}:{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
            | {"OMP_NUM_THREADS": "1"},
            check=False,
        )

    return start


def torchrun(processes, restarts):
    return (
        *("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"),
        f"--max-restarts={restarts}",
    )


def assert_same_end(one, other):
    for name in ("model.safetensors", "state.safetensors"):
        expected = load_file(one / "checkpoints" / "last" / name)
        found = load_file(other / "checkpoints" / "last" / name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert what_was_learnt(one) == what_was_learnt(other)


def what_was_learnt(folder):
    return [(line["step"], line.get("loss"), line.get("val_loss")) for line in read_metrics(folder)]


@pytest.mark.kill
@pytest.mark.slow
def test_one_process_killed_three_times_ends_bit_for_bit_alike(launch, tmp_path):
    """In a step, before a checkpoint takes its name, and between its two renames."""
    assert launch(None, tmp_path / "whole", *HARD).returncode == 0
    for place in ("step 5", "save 2", "rename 1"):
        assert launch(place, tmp_path / "cut", *HARD).returncode == -signal.SIGKILL
    assert launch(None, tmp_path / "cut", *HARD).returncode == 0
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.parametrize("task", ["mtm", "classify"])
def test_a_killed_task_ends_bit_for_bit_alike(launch, tmp_path, task):
    hard = (*HARD, "steps=7")
    assert launch(None, tmp_path / "whole", *hard, task=task).returncode == 0
    assert launch("step 5", tmp_path / "cut", *hard, task=task).returncode == -signal.SIGKILL
    assert launch(None, tmp_path / "cut", *hard, task=task).returncode == 0
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.dist
@pytest.mark.kill
@pytest.mark.slow
def test_torchrun_restarts_two_processes_without_a_hand(launch, tmp_path):
    """One of the two is killed; the launcher starts both again with the same words."""
    whole = launch(None, tmp_path / "whole", *HARD, launcher=torchrun(2, 0))
    assert whole.returncode == 0, whole.stderr
    cut = launch("step 5", tmp_path / "cut", *HARD, launcher=torchrun(2, 1))
    assert cut.returncode == 0, cut.stderr
    assert "SIGKILL" in cut.stderr or "exitcode: -9" in cut.stderr
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("left", [(), (VOCABULARY,), (VOCABULARY, STORE, f".{CONFIG}.new")])
def test_a_run_killed_while_its_folder_was_made_begins_again(request_run, left):
    request = replace(request_run("toy", "steps=1"), resume=True)
    request.folder.mkdir()
    for name in left:
        (request.folder / name).write_bytes(b"half")
    assert train(request).trained
    assert json.loads((request.folder / CONFIG).read_text())["steps"] == 1


def test_a_requeued_job_repeats_its_command(request_run, monkeypatch):
    """SLURM's SIGTERM stops it; the same words, with --resume in them from the first, go on."""
    from seit_train.trainer import Trainer

    words = replace(request_run("toy", "loop.ema=0.9", folder="job"), resume=True)
    step = Trainer._train_step

    def preempted(trainer, *arguments):
        if trainer.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", preempted)
        with pytest.raises(Interrupted):
            train(words)
    assert train(words).steps == 12
    again = train(words)
    assert not again.trained
