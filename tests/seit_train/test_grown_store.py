"""Training from a store that grew: old weights fit the longer vocabulary, old runs keep theirs."""

from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from seit_train.launch import train
from tests.toy_images import encoded, picture
from tokenstore.cli.main import main
from tokenstore.errors import Mismatch
from tokenstore.loader import TokenLoader
from tokenstore.reader import open_store


def done(*words):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output


@pytest.fixture
def place(toy_tokenizer, tmp_path):
    """A store of 16 dark images to train on and 4 to validate, 8x8 ranks of colours."""
    for i in range(20):
        folder = tmp_path / "photos" / ("val" if i > 15 else "train") / "pear"
        folder.mkdir(parents=True, exist_ok=True)
        dark = picture(i).point(lambda value: value // 2)
        (folder / f"{i}.jpg").write_bytes(encoded(dark))
    words = ("--tokenizer", "toy", "--image-size", 64)
    done("build", tmp_path / "photos", "-o", tmp_path / "s", *words)
    return tmp_path / "s"


@pytest.fixture
def grow(place, tmp_path):
    """Appends eight images with codes that the store does not have."""

    def append():
        folder = tmp_path / "more" / "train" / "pear"
        folder.mkdir(parents=True)
        for i in range(8):
            (folder / f"more_{i}.jpg").write_bytes(encoded(picture(500 + i)))
        done("append", place, tmp_path / "more")

    return append


def test_init_takes_the_weights_of_before_and_resume_stays_with_the_old_version(
    place, grow, request_run
):
    old = open_store(place)
    request = replace(request_run("mtm", "batch_size=8", "steps=2"), store=str(place))
    first = train(request).run
    grow()
    new = open_store(place)
    added = len(new.vocabulary) - len(old.vocabulary)
    assert added > 0
    with pytest.raises(Mismatch, match="Resume with the store of the run"):
        train(replace(request, resume=True))
    again = request_run(
        "mtm", "batch_size=8", "steps=1", "lr=1.0e-12", folder="b", init=str(first.folder)
    )
    second = train(replace(again, store=str(place))).run
    before, now = (load_file(run.last / "model.safetensors") for run in (first, second))
    grown = [name for name in now if now[name].shape != before[name].shape]
    assert grown
    for name in grown:
        assert len(now[name]) == len(before[name]) + added
        assert torch.allclose(now[name][: len(before[name])], before[name], atol=1e-6)


def test_a_loader_state_belongs_to_its_version(place, grow):
    old = open_store(place)
    loader = TokenLoader(old["train"], batch_size=4, seed=0)
    batches = iter(loader)
    next(batches)
    state = loader.state_dict()
    grow()
    with pytest.raises(Mismatch, match="belongs to store"):
        TokenLoader(open_store(place)["train"], batch_size=4, seed=0).load_state_dict(state)
    resumed = TokenLoader(old["train"], batch_size=4, seed=0)
    resumed.load_state_dict(state)
    assert len(list(resumed)) == len(list(batches)) == 3
