"""The demo corpus: every class is drawn, masks fit the pictures, and it never differs."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from pipelines.demo.scenes import CLASSES, MASK_CLASSES, Corpus, draw_scene, write_corpus


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.mark.parametrize("subject", CLASSES)
def test_every_class_shows_its_subject_in_picture_and_mask(subject):
    label = MASK_CLASSES.index(subject)
    for seed in range(3):
        scene = draw_scene(subject, 64, np.random.default_rng(seed))
        assert scene.picture.shape == (64, 64, 3)
        assert scene.picture.dtype == scene.mask.dtype == np.uint8
        present = set(np.unique(scene.mask).tolist())
        assert label in present
        assert present <= {*range(4), label}, "another class's subject is in the picture"
        assert 0.005 < np.mean(scene.mask == label) < 0.5


def test_a_scene_depends_on_its_generator_only():
    first, again, other = (draw_scene("castle", 48, np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(first.picture, again.picture)
    assert not np.array_equal(first.picture, other.picture)


def test_the_background_alone_does_not_tell_the_class():
    """Every class is seen over land and over water: a pond or an island makes room for it."""
    for subject in ("sailboat", "cottage", "balloon"):
        masks = [draw_scene(subject, 32, np.random.default_rng(s)).mask for s in range(24)]
        wet = [np.mean(mask == MASK_CLASSES.index("water")) for mask in masks]
        assert min(wet) < 0.1 and max(wet) > 0.15


def test_a_corpus_is_completed_where_it_was_left_and_never_differs(tmp_path):
    corpus = Corpus({"train": 2, "val": 1}, size=32, seed=5)
    assert write_corpus(tmp_path / "one", corpus, workers=1) == 3 * len(CLASSES)
    assert write_corpus(tmp_path / "two", corpus, workers=2) == 3 * len(CLASSES)
    (tmp_path / "two" / "train" / "rocket" / "rocket_0001.jpg").unlink()
    write_corpus(tmp_path / "two", corpus, workers=1)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    listed = json.loads((tmp_path / "one" / "classes.json").read_text())["classes"]
    assert [entry["name"] for entry in listed] == list(CLASSES)


def test_the_mask_layout_pairs_each_picture_with_its_mask(tmp_path):
    write_corpus(tmp_path, Corpus({"val": 1}, size=32, layout="masks"), workers=1)
    pictures = sorted((tmp_path / "val" / "images").iterdir())
    masks = sorted((tmp_path / "val" / "masks").iterdir())
    assert [p.stem for p in pictures] == [m.stem for m in masks]
    assert len(masks) == len(CLASSES)
    mask = np.asarray(Image.open(masks[0]))
    assert mask.dtype == np.uint8 and mask.shape == (32, 32)
    assert mask.max() < len(MASK_CLASSES)
    listed = json.loads((tmp_path / "classes.json").read_text())["classes"]
    assert [entry["name"] for entry in listed] == list(MASK_CLASSES)
