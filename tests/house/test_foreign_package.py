"""The package of docs/adding.md, installed as a user would, gives the commands a tokenizer."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tokenstore
from tests.toy_images import write_corpus

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "adding.md"
pytestmark = pytest.mark.slow


def block(heading: str, language: str) -> str:
    """The first block of code in that language below a heading of the page."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n{heading}")[1]
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found, f"no {language} below '{heading}'"
    return found.group(1)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, built and installed by pip without any network."""
    package = tmp_path_factory.mktemp("mosaic")
    (package / "pyproject.toml").write_text(block("### In a package of your own", "toml"))
    (package / "mosaic_tokenizer.py").write_text(block("## A tokenizer", "python"))
    target = tmp_path_factory.mktemp("installed")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    options = ["--no-build-isolation", "--disable-pip-version-check", "--target", str(target)]
    subprocess.run([*install, *options, str(package)], check=True)
    return target


def told(installed: Path, *words: object) -> str:
    """What `tokenstore WORDS` prints where the package is installed."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [str(Path(sys.executable).with_name("tokenstore")), *map(str, words)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_it_is_among_the_tokenizers(installed: Path) -> None:
    card = json.loads(told(installed, "tokenizers", "mosaic", "--json"))
    assert (card["name"], card["grid"], card["codebook"]) == ("mosaic", [16, 16], [216, 3])
    listed = told(installed, "tokenizers").splitlines()
    assert {"mosaic", "pocket"} <= {line.split()[0] for line in listed[1:]}


def test_it_builds_a_store_of_its_ids(installed: Path, tmp_path: Path) -> None:
    corpus, place = write_corpus(tmp_path / "photos", {"": 3}), tmp_path / "s"
    words = ("--tokenizer", "mosaic", "--image-size", "32x48")
    told(installed, "build", corpus, "-o", place, *words)
    store = tokenstore.open(place)
    sample = store["train"][0]
    image = corpus / f"{sample.key}.jpg"
    (encoded,) = json.loads(told(installed, "encode", image, *words, "--json"))
    assert np.array_equal(store.ids(sample.ranks), encoded["ids"])
    assert store.manifest.tokenizer.name == "mosaic"
    assert store.manifest.preprocess == {"rule": "center-crop", "size": [32, 48]}


def test_its_pictures_come_back(installed: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (51, 204, 255)).save(tmp_path / "flat.png")
    words = ("roundtrip", tmp_path / "flat.png", "--tokenizer", "mosaic", "--json")
    facts = json.loads(told(installed, *words, "-o", tmp_path / "sheet.png"))
    assert facts["mean_psnr"] == 100
    assert (tmp_path / "sheet.png").is_file()
