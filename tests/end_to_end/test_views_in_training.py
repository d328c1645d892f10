"""A recipe that takes one view of each image an epoch, from a build with several."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

import tokenstore
from seit_train.config import DataConfig, RunConfig
from seit_train.data import training_order
from tests.toy_images import write_corpus
from tokenstore.cli.main import main
from tokenstore.errors import UsageError


def built(corpus: Path, place: Path, views: int) -> tokenstore.reader.Split:
    words = ["build", corpus, "-o", place, "--tokenizer", "toy", "--image-size", 32]
    ran = CliRunner().invoke(main, [str(word) for word in (*words, "--views", views)])
    assert ran.exit_code == 0, ran.output
    return tokenstore.open(place)["train"]


def test_one_view_of_each_image_an_epoch(tmp_path: Path, toy_tokenizer: str) -> None:
    corpus = write_corpus(tmp_path / "in", {"train": 5})
    config = RunConfig(task="mtm", epochs=1, batch_size=2, lr=0.1, data={"sampling": "one-view"})
    order = training_order(built(corpus, tmp_path / "s", 3), config)
    epochs = [order.at(epoch, np.arange(len(order))) for epoch in range(3)]
    assert [sorted(shown // 3) for shown in epochs] == [list(range(5))] * 3
    assert sorted(np.concatenate(epochs)) == list(range(15))
    with pytest.raises(UsageError, match="--views K"):
        training_order(built(corpus, tmp_path / "one", 1), config)


def test_one_view_goes_with_no_share_of_the_split() -> None:
    with pytest.raises(ValidationError, match="one view of each image"):
        DataConfig(sampling="one-view", fraction=0.5)
