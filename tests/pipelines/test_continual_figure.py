"""The figure of continual learning: what it makes of runs' files, and refusals."""

import json
import sys

import pytest
from click.testing import CliRunner
from PIL import Image

from pipelines import continual
from pipelines.continual_figure import main, read_run


def write_run(folder, shares, memory=3000, task="classify"):
    """Shares of each task after each task, as a run writes them."""
    folder.mkdir(parents=True)
    replay = {"memory": memory, "passes": 2, "share": 0.5}
    config = {"task": task, "epochs": len(shares[0]), "seed": 7, "data": {"replay": replay}}
    (folder / "config.json").write_text(json.dumps(config))
    lines = [{"step": 1, "loss": 2.0}]
    lines += [{f"val_top1/task {n}": one for n, one in enumerate(row, 1)} for row in shares]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_accuracy_is_over_what_was_seen_and_forgetting_over_all_but_the_last(tmp_path):
    learnt = read_run(write_run(tmp_path / "r", [[0.8, 0, 0], [0.5, 0.9, 0], [0.6, 0.3, 0.9]]))
    assert learnt.after_each == pytest.approx((0.8, 0.7, 0.6))
    assert learnt.forgetting == pytest.approx((0.2 + 0.6) / 2)
    assert (learnt.kind, learnt.tasks, learnt.memory, learnt.seed) == ("tokens", 3, 3000, 7)


def test_it_writes_a_table_numbers_and_a_picture(tmp_path):
    runs = [
        write_run(tmp_path / f"{task}-{memory}", [[0.8, 0], [0.4, 0.8]], memory, task)
        for task in ("classify", "pixels")
        for memory in (3000, 30000)
    ]
    ran = CliRunner().invoke(main, [*map(str, runs), "-o", str(tmp_path / "continual")])
    assert ran.exit_code == 0, ran.output
    assert "60.0%" in ran.stdout and "40.0%" in ran.stdout
    told = json.loads((tmp_path / "continual.json").read_text())
    assert [(one["memory"], one["kind"]) for one in told] == [
        (3000, "pixels"), (3000, "tokens"), (30000, "pixels"), (30000, "tokens"),
    ]  # fmt: skip
    with Image.open(tmp_path / "continual.png") as picture:
        assert picture.size[0] > 500


def test_a_run_that_has_not_ended_is_named(tmp_path):
    folder = write_run(tmp_path / "r", [[0.8, 0]])
    ran = CliRunner().invoke(main, [str(folder), "-o", str(tmp_path / "continual")])
    assert ran.exit_code == 1
    assert "has 1 of 2 tasks behind it" in ran.stderr


def test_without_matplotlib_it_says_so_before_hours_of_training(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    ran = CliRunner().invoke(continual.main, [str(tmp_path), "-o", str(tmp_path / "out")])
    assert ran.exit_code == 1 and "pip install matplotlib" in ran.stderr
    assert not (tmp_path / "out").exists()


def test_without_matplotlib_the_numbers_are_written_all_the_same(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    folder = write_run(tmp_path / "r", [[0.8, 0], [0.4, 0.8]])
    ran = CliRunner().invoke(main, [str(folder), "-o", str(tmp_path / "continual")])
    assert ran.exit_code == 1 and "pip install matplotlib" in ran.stderr
    assert json.loads((tmp_path / "continual.json").read_text())[0]["memory"] == 3000
    assert "60.0%" in ran.stdout
