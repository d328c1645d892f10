"""The cluster's scripts as they stand, beside stand-ins that note what a cluster would be told.

`sbatch`, `srun`, `scontrol`, `ray` and `tokenstore` are small scripts that write their words down,
so this runs on any machine. A real SLURM runs the scripts in test_slurm.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from tests.pipelines.command_lines import check_settings, parsed

CLUSTER = Path(__file__).parents[2] / "pipelines" / "cluster"
NOTE = f"""#!{sys.executable}
import json, os, pathlib, sys
words = [pathlib.Path(sys.argv[0]).name, *sys.argv[1:]]
with open(os.environ["NOTED"], "a") as noted:
    noted.write(json.dumps(words) + "\\n")
"""
JOB = NOTE + "print(4242)\n"  # as `sbatch --parsable` does
# As many names as do not fit into a pipe; and ends a step as a requeue does.
SCONTROL = f"""{NOTE}
if words[1] == "show":
    print("".join(f"node-{{i}}\\n" for i in range(20_000)), end="")
else:
    os.kill(int(open(os.environ["NOTED"] + ".step").read()), 15)
"""
# A training that saves when it is told to end, and takes a while for it.
SAVES = """#!/bin/sh
trap 'sleep 0.3; echo saved >> "$NOTED.saved"; exit 143' TERM
echo $$ > "$NOTED.part" && mv "$NOTED.part" "$NOTED.step"
while :; do sleep 0.05; done
"""


@pytest.fixture
def cluster(tmp_path):
    """`cluster(SCRIPT, WORDS..., NAME=VALUE...)` runs one; gives what the stand-ins were told."""
    (tmp_path / "bin").mkdir()
    noted = tmp_path / "noted"
    programs = dict.fromkeys(("tokenstore", "srun", "ray"), NOTE)
    for name, text in (programs | {"sbatch": JOB, "scontrol": SCONTROL}).items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)

    def start(script, *words, **variables):
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "NOTED": str(noted)} | variables
        command = ["bash", str(CLUSTER / script), *map(str, words)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    def ended(script, *words, **variables):
        process = start(script, *words, **variables)
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        return printed, [json.loads(line) for line in noted.read_text().splitlines()]

    ended.start, ended.folder = start, tmp_path
    return ended


def test_a_build_is_planned_submitted_as_an_array_and_finished_behind_it(cluster):
    site = "--partition=gpu --account=me"
    options = ("--tokenizer", "vit-vqgan", "--device", "cuda")
    words = ("in21k", "in21k.tokenstore", 100, *options)
    printed, (plan, array, last) = cluster("slurm/build.sh", *words, SBATCH_OPTIONS=site)
    assert printed == "4242\n"
    assert plan == ["tokenstore", "plan", "in21k", "-o", "in21k.tokenstore", *options]
    parsed(plan)
    here = str(CLUSTER / "slurm")
    assert array[1:5] == ["--parsable", "--partition=gpu", "--account=me", "--array=0-99"]
    assert array[5:] == [f"{here}/tokenize.sbatch", *map(str, words)]
    assert {"--dependency=afterok:4242", "--partition=gpu", "--gres=none"} <= set(last)
    assert last[-2:] == [f"{here}/finish.sbatch", "in21k.tokenstore"]


def test_a_task_of_the_array_takes_its_stripe_with_the_options_that_were_planned(cluster):
    words = ("in21k", "in21k.tokenstore", 100, "--tokenizer", "vit-vqgan", "--device", "cuda")
    variables = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_CPUS_PER_TASK": "12"}
    _, ((_, *command),) = cluster("slurm/tokenize.sbatch", *words, **variables)
    values = parsed(command)
    assert (values["stripe"], values["workers"]) == ("7/100", 12)
    assert (values["tokenizer"], values["output"]) == ("vit-vqgan", "in21k.tokenstore")


def test_the_last_job_packs_and_verifies(cluster):
    _, told = cluster("slurm/finish.sbatch", "in21k.tokenstore", SLURM_CPUS_PER_TASK="32")
    assert [words[1] for words in told] == ["finish", "verify"]
    assert parsed(told[0])["workers"] == 32
    parsed(told[1])


NODES = {
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NODELIST": "node-[0-19999]",
    "SLURM_NNODES": "2",
    "SLURM_GPUS_ON_NODE": "8",
}
TRAINING = ("classify", "in1k.tokenstore", "-o", "runs/x", "--recipe", "seit_vitb_in1k")


def test_a_training_meets_on_the_first_of_its_nodes_and_can_be_queued_again(cluster):
    _, (_, command) = cluster("slurm/train.sbatch", *TRAINING, **NODES)
    assert command[:2] == ["srun", "torchrun"]
    options = dict(pairwise(command))
    assert (options["--nnodes"], options["--nproc-per-node"]) == ("2", "8")
    assert (options["--rdzv-id"], options["--rdzv-endpoint"]) == ("77", "node-0:29500")
    values = parsed(["seit-train", *command[command.index("seit_train") + 1 :]])
    assert values["resume"]
    check_settings("classify", values)


def test_before_its_time_is_up_a_training_is_queued_again_and_has_time_to_save(cluster):
    folder = cluster.folder
    (folder / "bin" / "srun").write_text(SAVES)
    job = cluster.start("slurm/train.sbatch", *TRAINING, **NODES)
    while not (folder / "noted.step").exists():
        assert job.poll() is None
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    job.communicate(timeout=60)
    told = [json.loads(line) for line in (folder / "noted").read_text().splitlines()]
    assert ["scontrol", "requeue", "77"] in told
    assert (folder / "noted.saved").read_text() == "saved\n"


def test_a_job_of_ray_builds_on_the_cluster_it_is_sent_to(cluster):
    words = ("s3://bucket/in21k", "s3://bucket/in21k.tokenstore", "--tokenizer", "vit-vqgan")
    _, (told,) = cluster("ray/build.sh", *words, RAY_DASHBOARD="http://head:8265")
    assert told[:6] == ["ray", "job", "submit", "--address", "http://head:8265", "--"]
    values = parsed(told[6:])
    assert (values["engine"], values["output"]) == ("ray", words[1])


@pytest.mark.parametrize("script", ["slurm/build.sh", "ray/build.sh"])
def test_without_an_input_a_script_says_how_it_is_used(cluster, script):
    job = cluster.start(script)
    job.communicate(timeout=60)
    assert job.returncode == 2
