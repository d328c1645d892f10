"""Steps: done ones are recognised, failed ones end the pipeline and are run again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.steps import Published, Request, Step, run

COUNT = (
    "import pathlib; p = pathlib.Path('runs.txt'); p.open('a').write('x'); print('{\"n\": 0.5}')"
)


def counting(name="count", makes="runs.txt"):
    return Step(name, ("python", "-c", COUNT), makes)


def times(folder):
    return len((folder / "runs.txt").read_text())


def test_a_step_that_is_done_is_not_run_again(tmp_path, capsys):
    for _ in range(2):
        run(Request(tmp_path), [counting()], [Published("count", "n", "0.6 (a paper)")])
    assert times(tmp_path) == 1
    told = capsys.readouterr()
    assert told.out.count("0.5000   published 0.6 (a paper)") == 2
    assert "[1/1] count: done before" in told.err


def test_a_step_is_run_again_where_its_words_differ_or_what_it_makes_is_gone(tmp_path):
    run(Request(tmp_path), [counting()])
    run(Request(tmp_path), [Step("count", ("python", "-c", COUNT + "; 1"), "runs.txt")])
    assert times(tmp_path) == 2
    (tmp_path / "runs.txt").unlink()
    run(Request(tmp_path), [Step("count", ("python", "-c", COUNT + "; 1"), "runs.txt")])
    assert times(tmp_path) == 1


def test_a_step_whose_numbers_are_gone_is_run_again(tmp_path, capsys):
    published = [Published("count", "n", "0.6 (a paper)")]
    run(Request(tmp_path), [counting()], published)
    (tmp_path / "steps" / "count.out").unlink()
    run(Request(tmp_path), [counting()], published)
    assert times(tmp_path) == 2
    assert capsys.readouterr().out.count("published 0.6 (a paper)") == 2


def test_a_step_that_fails_ends_the_pipeline_and_is_run_again(tmp_path, capsys):
    fails = Step("fails", ("python", "-c", "import sys, os; sys.exit(not os.path.exists('cure'))"))
    steps = [counting(), fails, counting("after")]
    with pytest.raises(SystemExit) as stopped:
        run(Request(tmp_path), steps)
    assert stopped.value.code == 1
    assert "'fails' ended with exit code 1" in capsys.readouterr().err
    (tmp_path / "cure").touch()
    run(Request(tmp_path), steps)
    assert times(tmp_path) == 2


def test_a_stopped_pipeline_waits_for_its_command_and_counts_it_as_not_done(tmp_path):
    command = (
        "import signal, sys, time, pathlib\n"
        "def stop(*_): pathlib.Path('saved').touch(); sys.exit(130)\n"
        "signal.signal(signal.SIGTERM, stop); pathlib.Path('ready').touch(); time.sleep(60)"
    )
    program = (
        "from pathlib import Path; from pipelines.steps import Request, Step, run\n"
        f"run(Request(Path({str(tmp_path)!r})), [Step('waits', ('python', '-c', {command!r}))])"
    )
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    pipeline = subprocess.Popen([sys.executable, "-c", program], env=environment)
    while not (tmp_path / "ready").exists():
        assert pipeline.poll() is None
        time.sleep(0.05)
    pipeline.send_signal(signal.SIGTERM)
    assert pipeline.wait() == 130
    assert (tmp_path / "saved").exists()
    assert not (tmp_path / "steps" / "waits.json").exists()


def test_a_command_that_was_killed_gives_the_shells_exit_code(tmp_path):
    killed = Step("killed", ("python", "-c", "import os; os.kill(os.getpid(), 9)"))
    with pytest.raises(SystemExit) as stopped:
        run(Request(tmp_path), [killed])
    assert stopped.value.code == 137
