"""The demo as a whole, with a few steps of training on small corpora."""

import json

import pytest
from click.testing import CliRunner

from pipelines.demo import run
from pipelines.demo.scenes import Corpus, write_corpus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(run, "SEEN", {"mtm": 80, "classify": 80})
    monkeypatch.setattr(run, "SHOWN", 2)
    monkeypatch.setattr(run, "SCENES", Corpus({"train": 9, "val": 2}, size=64))


def demo(*words):
    result = CliRunner().invoke(run.main, [str(word) for word in words], catch_exceptions=False)
    return result.exit_code, result.stdout


def test_the_demo_ends_with_a_table_and_a_picture_and_can_be_run_again(tmp_path, few_steps):
    for _ in range(2):
        code, told = demo("-o", tmp_path / "demo")
        assert code == 0
        assert "top-1 on val" in told and "unigram entropy" in told
        assert (tmp_path / "demo" / "original-and-decoded.png").stat().st_size > 1000


def test_images_without_classes_are_trained_on_without_a_classifier(tmp_path, few_steps):
    write_corpus(tmp_path / "drawn", Corpus({"train": 10}, size=64))
    mine = tmp_path / "my photos"
    mine.mkdir()
    for file in (tmp_path / "drawn").rglob("*.jpg"):
        file.rename(mine / f"photo {file.name}")
    code, told = demo("--images", mine, "-o", tmp_path / "demo")
    assert code == 0
    assert "no classifier" in told and "top-1" not in told


def test_a_trial_takes_a_few_scenes_and_two_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "SHOWN", 1)
    code, told = demo("-o", tmp_path / "demo", "--limit", 8)
    assert code == 0 and "a trial" in told
    assert len(list((tmp_path / "demo" / "images").rglob("*.jpg"))) == 16
    config = json.loads((tmp_path / "demo" / "classify" / "config.json").read_text())
    assert config["steps"] == 2 and config["batch_size"] == 8


def test_a_folder_without_images_ends_with_a_sentence(tmp_path, few_steps):
    code, told = demo("--images", tmp_path, "-o", tmp_path / "demo")
    assert code == 2
    assert told == ""
