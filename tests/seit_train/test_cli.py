"""The command line of training: what it prints, and how it refuses."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from seit_train.cli.main import main


@pytest.fixture
def run(recipe, store):
    """Runs `seit-train WORDS`; gives exit code, stdout and stderr."""

    def call(*words):
        result = CliRunner().invoke(main, [str(word) for word in words])
        return result.exit_code, result.stdout, result.stderr

    return call


def test_train_then_evaluate_from_the_command_line(run, store, recipe, tmp_path):
    masked, classified = tmp_path / "m", tmp_path / "c"
    code, out, _ = run("mtm", store.url, "-o", masked, "--recipe", recipe, "steps=2")
    assert code == 0
    for words in (f"run    {masked}", "best   val_loss", "2 steps", f"--init {masked}"):
        assert words in out
    code, out, _ = run(
        "classify", store.url, "-o", classified, "--recipe", recipe, "--init", masked
    )
    assert code == 0
    assert f"seit-train evaluate {classified} --store {store.url}" in out
    code, out, _ = run("evaluate", classified, "--store", store.url, "--json")
    assert code == 0
    assert set(json.loads(out)) == {"n", "loss", "top1", "top5"}
    code, out, _ = run("evaluate", classified, "--store", store.url)
    assert code == 0
    assert "top1" in out


def test_resuming_a_finished_run_says_that_it_had_ended(run, store, recipe, tmp_path):
    words = ("mtm", store.url, "-o", tmp_path / "m", "--recipe", recipe, "steps=1", "--resume")
    assert run(*words)[0] == 0
    code, out, _ = run(*words)
    assert code == 0
    assert "had ended before" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "cpu_tinny"], "unknown recipe 'cpu_tinny'. Did you mean cpu_tiny"),
        (["model.encoder.depht=3"], "Did you mean model.encoder.depth"),
        (["batch_size=100000"], "lower it with batch_size=N"),
        (["--init", "nowhere"], "'nowhere'"),
        (["lr"], "no key=value override"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(run, store, recipe, tmp_path, words, message):
    own = [] if "--recipe" in words else ["--recipe", recipe]
    code, out, err = run("mtm", store.url, "-o", tmp_path / "r", *own, *words)
    assert code == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "r").exists()


def test_a_place_that_is_no_store_is_refused(run, tmp_path):
    code, _, err = run("mtm", tmp_path, "-o", tmp_path / "r")
    assert code == 2
    assert "is no token store" in err


@pytest.mark.parametrize("words", [[], ["--store", "s", "--images", "i"]])
def test_evaluate_wants_one_thing_to_judge_by(run, tmp_path, words):
    code, _, err = run("evaluate", tmp_path, *words)
    assert code == 2
    assert "either --store STORE or --images DIR" in err


def test_recipes_are_listed_and_printed(run):
    code, out, _ = run("recipes")
    assert code == 0
    assert any(
        line.split()[:4] == ["cpu_tiny", "mtm,", "classify,", "tokenadapt,"]
        for line in out.splitlines()
    )
    code, out, _ = run("recipes", "cpu_tiny")
    assert code == 0
    assert out.startswith("#")
    assert "classify:" in out
    code, out, _ = run("recipes", "--json")
    cards = {card["name"]: card for card in json.loads(out)}
    assert cards["cpu_tiny"]["hours"].startswith("0.11")
    assert cards["seit_vitb_in1k"]["hours"] is None
    assert "74.0 top-1" in cards["seit_vitb_in1k"]["expected"]


def test_help_loads_no_torch():
    program = (
        "import sys; from seit_train.cli.main import main\n"
        "for words in (['--help'], ['mtm', '--help'], ['recipes']):\n"
        "    main.main(words, standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_the_module_runs_as_the_command_does():
    command = [sys.executable, "-m", "seit_train", "--version"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.stdout.startswith("seit-train")
