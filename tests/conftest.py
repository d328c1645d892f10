"""What several test folders need: a corpus of drawn scenes, a store of it, and the real photos."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.demo.scenes import Corpus, write_corpus

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

# A shell that runs the suite in the background has Ctrl-C ignored; the tests of Ctrl-C need it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def scene_corpus(tmp_path_factory):
    """Folder of drawn scenes, 64 pixels square: 8 classes with 4 to train on and 2 to validate."""
    folder = tmp_path_factory.mktemp("corpus") / "scenes"
    write_corpus(folder, Corpus({"train": 4, "val": 2}, size=64), workers=1)
    return folder


@pytest.fixture(scope="session")
def scene_store(scene_corpus, tmp_path_factory):
    """A store of `scene_corpus`, made by the command that users type: 8x8 ranks an image."""
    store = tmp_path_factory.mktemp("store") / "scenes.tokenstore"
    words = ["build", str(scene_corpus), "-o", str(store), "--image-size", "64"]
    command = [str(Path(sys.executable).with_name("tokenstore")), *words]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return store


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real photos beside the checkout; tests that need it skip without it."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the real photos in ../shared/data, which are not here")
    return SHARED / "data"


@pytest.fixture(scope="session")
def reference_tokens():
    """`(name) -> train, test, codes`: token grids of real photos, by popularity in train."""
    folder = SHARED / "reference" / "tokens"
    if not folder.is_dir():
        pytest.skip("needs the token grids in ../shared/reference/tokens, which are not here")
    split = np.load(folder / "split.npz")

    def load(name):
        grids = np.load(folder / f"tokens_{name}.npy")
        size = int(grids.max()) + 1
        counts = np.bincount(grids[split["train"]].ravel(), minlength=size)
        ranks = np.argsort(np.argsort(-counts, kind="stable")).astype(np.uint16)[grids]
        return ranks[split["train"]], ranks[split["test"]], size

    return load


@pytest.fixture
def toy_tokenizer(tmp_path_factory, monkeypatch):
    """Name of a tokenizer that needs no weights, also known to subprocesses of the test."""
    from tests import toy_tokenizer as toy

    folder = tmp_path_factory.mktemp("plugins")
    toy.install(folder)
    monkeypatch.syspath_prepend(str(folder))
    before = [path for path in [os.environ.get("PYTHONPATH")] if path]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *before, str(ROOT)]))
    return "toy"
