"""The SLURM scripts as they are, on a SLURM of one node: a build by an array, and trainings."""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from tests.pipelines.corpora import write_imagenet
from tests.slurm_node import missing, slurm_node
from tests.toy_store import write_toy_store

SCRIPTS = Path(__file__).parents[2] / "pipelines" / "cluster" / "slurm"
pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]
HALVES = ("encoder", "decoder")
HERE = ["--gres=none", "--mem=500M", "--cpus-per-task=1", "--wait"]


@pytest.fixture(scope="module")
def slurm():
    with tempfile.TemporaryDirectory(prefix="slurm") as folder:
        place = Path(folder)
        place.chmod(0o755)
        with slurm_node(place) as environment:
            yield environment


def run(words, environment, folder):
    words = [str(word) for word in words]
    ran = subprocess.run(
        words, env=environment, cwd=folder, capture_output=True, text=True, check=False
    )
    logs = "\n".join(
        path.read_text(errors="replace") for path in sorted(folder.glob("slurm-*.out"))
    )
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}\n{logs}"
    return ran.stdout + ran.stderr + logs


def test_an_array_builds_a_store_and_a_job_trains_from_it(tmp_path, slurm, toy_tokenizer):
    corpus = write_imagenet(tmp_path / "imagenet", train=6)
    environment = slurm | {"PYTHONPATH": os.environ["PYTHONPATH"]}
    store = tmp_path / "x.tokenstore"
    options = ["--tokenizer", toy_tokenizer, "--device", "cpu", "--part-size", 8]
    words = [SCRIPTS / "build.sh", corpus / "train", store, 2, *options]
    run(words, environment | {"SBATCH_OPTIONS": " ".join(HERE)}, tmp_path)
    assert (store / "manifest.json").is_file()
    logs = list(tmp_path.glob("slurm-*.out"))
    assert len(logs) == 3  # two stripes, and the job that finishes and verifies
    assert any("sound" in log.read_text() for log in logs)

    words = [SCRIPTS / "train.sbatch", "mtm", store, "-o", tmp_path / "run"]
    settings = ["steps=2", "epochs=null", "batch_size=8", "augment=[]"]
    run(["sbatch", *HERE, "--nodes=1", *words, *settings], environment, tmp_path)
    assert (tmp_path / "run" / "checkpoints" / "last" / "model.safetensors").is_file()
    again = run(["sbatch", *HERE, "--nodes=1", *words, *settings], environment, tmp_path)
    assert "had ended before" in again


def until(is_so, what, seconds=400):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


def test_a_training_whose_time_is_up_is_queued_again_and_goes_on(tmp_path, slurm, toy_tokenizer):
    def ask(*words):
        ran = subprocess.run(
            words, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        return ran.stdout + ran.stderr

    def printed():
        return "".join(file.read_text(errors="replace") for file in tmp_path.glob("slurm-*.out"))

    environment = slurm | {"PYTHONPATH": os.environ["PYTHONPATH"]}
    store = write_toy_store(tmp_path / "x.tokenstore")
    words = ["sbatch", "--parsable", "--gres=none", "--mem=500M", "--cpus-per-task=1", "--nodes=1"]
    words += [SCRIPTS / "train.sbatch", "mtm", store.url, "-o", tmp_path / "run", "augment=[]"]
    settings = ["steps=600", "epochs=null", "batch_size=8", "loop.log_every=20"]
    settings += [f"model.{half}.{small}" for half in HALVES for small in ("width=16", "heads=2")]
    job = ask(*map(str, words), *settings).strip()
    assert job.isdecimal(), job

    metrics = tmp_path / "run" / "metrics.jsonl"
    until(lambda: metrics.exists() and metrics.read_text(), printed)
    ask("scancel", "--signal=USR1", "--batch", job)  # what SLURM sends before the time is up
    until(lambda: "Restarts=1" in ask("scontrol", "show", "job", job), printed)
    until(lambda: "stopped as asked after step" in printed(), printed)
    ask("scontrol", "update", f"JobId={job}", "StartTime=now")  # it waits two minutes else
    until(lambda: "JobState=COMPLETED" in ask("scontrol", "show", "job", job), printed)
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps[-1] == 600 and steps == sorted(steps)
