"""What a run writes of itself, and what a person sees."""

import json

from seit_train.metrics import METRICS, Journal, read_metrics


def test_lines_are_json_with_step_and_epoch(tmp_path):
    with Journal(tmp_path, "mtm", total=4, first_step=1) as journal:
        journal.write(2, 0.123456, {"loss": 6.5, "lr": 1e-3})
        journal.write(4, 0.25, {"val_loss": float("nan")})
    lines = [json.loads(text) for text in (tmp_path / METRICS).read_text().splitlines()]
    assert lines == [
        {"step": 2, "epoch": 0.1235, "loss": 6.5, "lr": 1e-3},
        {"step": 4, "epoch": 0.25, "val_loss": None},
    ]


def test_resuming_forgets_the_steps_that_will_run_again(tmp_path):
    with Journal(tmp_path, "mtm", total=9, first_step=1) as journal:
        for step in (2, 4, 6):
            journal.write(step, 0.1, {"loss": float(step)})
    with Journal(tmp_path, "mtm", total=9, first_step=5) as journal:
        journal.write(6, 0.1, {"loss": 60.0})
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [
        (2, 2.0),
        (4, 4.0),
        (6, 60.0),
    ]


def test_a_last_line_cut_short_is_left_out(tmp_path):
    (tmp_path / METRICS).write_text('{"step": 1, "epoch": 0.1}\n{"step": 2, "ep')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1]


def test_a_run_without_metrics_has_no_lines(tmp_path):
    assert read_metrics(tmp_path) == []


def test_without_a_terminal_each_interval_is_one_line_on_stderr(tmp_path, capsys):
    with Journal(tmp_path, "mtm", total=1000, first_step=1) as journal:
        journal.advance(1)
        journal.write(10, 0.1, {"loss": 6.54321, "images_per_second": 1234.5})
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1
    for words in ("mtm: step 10 of 1,000", "loss 6.543", "images_per_second 1,234", "s left"):
        assert words in lines[0]


def test_on_a_terminal_there_is_one_live_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with Journal(tmp_path, "mtm", total=10, first_step=1) as journal:
        journal.advance(5)
        journal.write(10, 1.0, {"loss": 6.5})
        assert journal._line._bar.tasks[0].completed == 5
        assert "loss 6.5" in journal._line._bar.tasks[0].fields["scalars"]
    assert capsys.readouterr().out == ""
