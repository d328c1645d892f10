"""What the tests of training share: a small store, the toy task and tokenizer, and recipes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seit_train.evaluate.trained import load_trained
from seit_train.launch import TrainRequest, train
from tests import toy_tokenizer
from tests.seit_train import toy_task
from tests.toy_store import ToyStore, write_toy_store
from tokenstore.build.engine import Running
from tokenstore.build.plan import BuildOptions
from tokenstore.build.run import build_store

RECIPE = """
toy:
  steps: 12
  batch_size: 16
  lr: 0.05
  loop: {log_every: 4, precision: fp32}
mtm:
  steps: 4
  batch_size: 16
  lr: 1.0e-3
  optim: {clip_norm: 1.0, warmup_steps: 2}
  loop: {log_every: 2}
  model:
    encoder: {width: 32, depth: 2, heads: 2}
    decoder: {width: 32, depth: 1, heads: 2}
    ids: {width: 8}
  augment: [{random_resized_crop: {size: 8}}]
classify:
  steps: 4
  batch_size: 16
  lr: 1.0e-3
  loop: {log_every: 2}
  model: {width: 32, depth: 2, heads: 2, stem: conv2x2, embedding: ids, ids: {width: 8}}
  augment: [{random_resized_crop: {size: 8}}, {cutmix: {}}]
"""

GREY_RECIPE = """
classify:
  steps: 40
  batch_size: 12
  lr: 3.0e-3
  loop: {precision: fp32}
  model: {width: 24, depth: 1, heads: 2, stem: linear, drop_path: 0.0}
  augment: []
"""


@pytest.fixture(scope="session")
def plugins(tmp_path_factory):
    """Folder that makes the toy task and the toy tokenizer known where it is on the path."""
    folder = tmp_path_factory.mktemp("plugins")
    toy_task.install(folder)
    toy_tokenizer.install(folder)
    return folder


@pytest.fixture(autouse=True)
def toys(plugins, monkeypatch):
    monkeypatch.syspath_prepend(str(plugins))


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """48 images to train on and 13 to validate, 8x8 ranks of 16, 4 classes."""
    return write_toy_store(
        tmp_path_factory.mktemp("training") / "toy.tokenstore", ToyStore({"train": 48, "val": 13})
    )


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def request_run(store, recipe, tmp_path):
    """Makes a TrainRequest: `request_run("toy", "lr=0.1", folder="a", resume=True)`."""

    def make(task: str, *overrides: str, folder: str = "run", **options: object) -> TrainRequest:
        place = Path(tmp_path / folder)
        return TrainRequest(task, store.url, place, str(recipe), overrides, **options)

    return make


@pytest.fixture(scope="session")
def greys(tmp_path_factory):
    """8 pictures each, in train and val, of three slightly different greys, as noise."""
    folder, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    for split in ("train", "val"):
        for label, grey in enumerate((110, 128, 146)):
            for number in range(8):
                path = folder / split / f"grey{label}" / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                noise = rng.integers(-6, 7, (32, 32, 3))
                Image.fromarray((grey + noise).astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="session")
def grey_runs(greys, tmp_path_factory):
    """A run that embeds by the codebook, and one that embeds ids."""
    place = tmp_path_factory.mktemp("attacked")
    options = BuildOptions(tokenizer="pocket", image_size=(32, 32))
    build_store(str(greys), place / "s", options, Running(1))
    (place / "r.yaml").write_text(GREY_RECIPE)

    def make(name, *more):
        request = TrainRequest(
            "classify", str(place / "s"), place / name, str(place / "r.yaml"), more
        )
        return load_trained(train(request).run.folder)

    return {"codebook": make("a"), "ids": make("b", "model.embedding=ids", "model.ids.width=8")}
