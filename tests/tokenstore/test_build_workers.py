"""Worker processes that die: what they had in their hands is done again, and costs one image."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

import tokenstore
from tests import crashing_source
from tests.toy_images import write_corpus
from tokenstore.build import workers
from tokenstore.build.workers import CRASHED, decoding_pool
from tokenstore.cli.main import main
from tokenstore.errors import BuildError, ImageRejected


def doubled(numbers: Sequence[int]) -> list[int]:
    """The work of the pool; 13 kills whoever does it."""
    if 13 in numbers:
        os._exit(1)
    return [2 * number for number in numbers]


def test_what_kills_its_worker_is_rejected_and_nothing_else_is_lost() -> None:
    tasks = [[1, 2], [3, 13], [5, 6], [7, 8]]
    with decoding_pool(2) as pool:
        futures = [pool.submit(doubled, task) for task in tasks]
        results = [
            pool.result(doubled, task, future) for task, future in zip(tasks, futures, strict=True)
        ]
        crashed = results[1].pop()
        assert isinstance(crashed, ImageRejected)
        assert str(crashed) == CRASHED
        assert results == [[2, 4], [6], [10, 12], [14, 16]]
        assert pool.submit(doubled, [4]).result() == [8]


def test_a_worker_that_somebody_kills_costs_nothing() -> None:
    with decoding_pool(1) as pool:
        victim = pool.executor.submit(os.getpid).result()
        os.kill(victim, signal.SIGKILL)
        future = pool.submit(doubled, [1])
        assert pool.result(doubled, [1], future) == [2]
        assert pool.submit(doubled, [2]).result() == [4]


def test_where_no_worker_survives_its_start_a_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "_begin_worker", os.abort)
    with decoding_pool(1) as pool:
        future = pool.submit(doubled, [13])
        with pytest.raises(BuildError, match="die as soon as they start"):
            pool.result(doubled, [13], future)


@pytest.mark.usefixtures("toy_tokenizer")
def test_an_image_that_crashes_its_decoder_costs_that_image_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing_source.install(tmp_path / "plugins")
    monkeypatch.syspath_prepend(str(tmp_path / "plugins"))
    corpus = write_corpus(tmp_path / "photos", {"train": 9})
    photo = corpus / "train" / "apple" / "photo_000.jpg"
    photo.with_name("killer.jpg").write_bytes(photo.read_bytes())
    made = []
    for count in (1, 2):
        words = ["build", str(corpus), "-o", str(tmp_path / f"s{count}"), "--source", "crashing"]
        words += ["--tokenizer", "toy", "--part-size", "4", "--workers", str(count)]
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        assert f"rejected train/apple/killer.jpg: {CRASHED}" in result.stderr
        made.append(tokenstore.open(tmp_path / f"s{count}"))
    assert [len(store["train"]) for store in made] == [9, 9]
    assert made[0].fingerprint == made[1].fingerprint
