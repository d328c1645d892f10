"""Several processes that train together: one model, exact counts, one folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from seit_train.distributed import World, any_process, joined_world, sum_over_processes
from seit_train.launch import train
from seit_train.metrics import read_metrics

ROOT = Path(__file__).parents[2]


def test_alone_there_is_one_process_and_nothing_to_do():
    with joined_world() as world:
        assert (world.rank, world.size, world.is_first) == (0, 1, True)
        assert sum_over_processes(torch.ones(2)).tolist() == [1, 1]
        assert any_process(True, world)
        assert not any_process(False, World(0, 1, world.device))


PROGRAM = """
import sys
from pathlib import Path
from seit_train.launch import TrainRequest, train
store, folder, recipe, *overrides = sys.argv[1:]
train(TrainRequest("toy", store, Path(folder), recipe, overrides))
"""


@pytest.mark.dist
@pytest.mark.slow
def test_two_processes_train_the_model_of_one(request_run, store, recipe, plugins, tmp_path):
    """Where nothing is random, two half batches are one batch, up to rounding."""
    overrides = ["loop.log_every=1", "steps=6", "still=true"]
    one = train(request_run("toy", *overrides, folder="one")).run
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    two = tmp_path / "two"
    ran = subprocess.run(
        [sys.executable, *launcher, store.url, str(two), str(recipe), *overrides],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{plugins}:{ROOT}", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("step 6 of 6  loss") == 1, "the first process talks, the other does not"
    for ours, theirs in zip(read_metrics(one.folder), read_metrics(two), strict=True):
        for name in ("step", "loss", "val_loss", "val_top1"):
            assert ours.get(name, 0) == pytest.approx(theirs.get(name, 0), rel=1e-4)
    expected = load_file(one.last / "model.safetensors")
    found = load_file(two / "checkpoints" / "last" / "model.safetensors")
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-4)


STOPPED = """
import os, signal, sys
from pathlib import Path
from seit_train import trainer
from seit_train.launch import TrainRequest, train
from tokenstore.errors import Interrupted
store, folder, recipe, *overrides = sys.argv[1:]
step = trainer.Trainer._train_step
def stepping(self, *arguments):
    if self.step == 2 and self.world.rank == 1:  # the launcher tells each process; one is enough
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, *arguments)
trainer.Trainer._train_step = stepping
try:
    train(TrainRequest("toy", store, Path(folder), recipe, overrides, None, True))
except Interrupted as stopped:
    print(stopped)
"""


@pytest.mark.dist
@pytest.mark.slow
def test_two_processes_stop_together_soon_after_one_was_asked(store, recipe, plugins, tmp_path):
    """Not at the next line of metrics: a scheduler waits for half a minute at most."""
    program, folder = tmp_path / "program.py", tmp_path / "run"
    program.write_text(STOPPED)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(program)]
    overrides = ["loop.log_every=1000", "steps=40", "loop.eval_every_epochs=100"]
    ran = subprocess.run(
        [sys.executable, *launcher, store.url, str(folder), str(recipe), *overrides],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{plugins}:{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
        | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("stopped as asked after step 8 of 40") == 2
