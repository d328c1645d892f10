"""Which folders stand for which classes, and the figures that a classifier is judged by."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from seit_train.evaluate.class_map import Scope, Targets, match_folders
from seit_train.evaluate.classes import ClassFigures
from seit_train.evaluate.on_images import evaluate_images, open_gallery
from seit_train.evaluate.on_store import evaluate_store
from seit_train.evaluate.trained import load_trained
from seit_train.launch import train
from tests.toy_tokenizer import ToyTokenizer
from tokenstore.errors import UsageError
from tokenstore.preprocess import Preprocess

CLASSES = ("cat", "dog", "ape", "elk")


def match(folders, content=None, tmp_path=None, all_classes=False, name="map.json"):
    file = None
    if content is not None:
        file = tmp_path / name
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return match_folders(folders, CLASSES, Scope(file, all_classes))


def judged(targets, logits, numbers):
    figures = ClassFigures(targets, torch.device("cpu"))
    figures.add(torch.tensor(logits), torch.tensor(numbers))
    return figures.result()


def test_folders_of_some_classes_restrict_the_answers_to_these():
    numbers, targets = match(["ape", "cat"])
    assert numbers == {"ape": 2, "cat": 0}
    assert targets.among == (0, 2)
    # Of all classes dog is the likeliest; of those that are shown, it is ape.
    found = judged(targets, [[0.0, 9.0, 1.0, 0.0]], [2])
    assert (found["top1"], found["classes"]) == (1.0, 2)
    _, targets = match(["ape", "cat"], all_classes=True)
    assert judged(targets, [[0.0, 9.0, 1.0, 0.0]], [2])["top1"] == 0.0


def test_a_single_folder_is_judged_among_all_classes():
    assert match(["dog"])[1].among == (0, 1, 2, 3)


def test_any_class_of_a_set_is_a_right_answer(tmp_path):
    numbers, targets = match(["pet", "elk"], {"pet": ["cat", "dog"]}, tmp_path)
    assert targets.names[numbers["pet"]] == "pet"
    logits = [[0.0, 2.0, 9.0, 1.0], [1.0, 0.0, 9.0, 2.0]]  # ape is not among the answers
    found = judged(targets, logits, [numbers["pet"]] * 2)
    assert found["accuracy"] == {"pet": 0.5}
    shares = torch.tensor(logits)[:, [0, 1, 3]].softmax(1)[:, :2].sum(1)
    assert found["loss"] == pytest.approx(float(-shares.log().mean()), rel=1e-5)


def test_several_folders_may_stand_for_one_class(tmp_path):
    numbers, targets = match(["tiger", "lion", "dog"], {"tiger": "cat", "lion": "cat"}, tmp_path)
    assert numbers == {"tiger": 0, "lion": 0, "dog": 1}
    assert targets.among == (0, 1)


def test_only_a_map_leaves_folders_out(tmp_path):
    assert match(["cat", "dog", "yak"], {"yak": None}, tmp_path)[0]["yak"] is None
    assert match(["cat", "dog", "yak", "gnu"], {"*": None}, tmp_path)[0]["gnu"] is None
    with pytest.raises(UsageError, match="'yak' is none of the classes.*--class-map"):
        match(["cat", "yak"], {"gnu": None}, tmp_path)


def test_a_map_may_be_csv(tmp_path):
    text = "folder,class\npet,cat\npet,dog\nyak,\n"
    numbers, targets = match(["pet", "yak", "elk"], text, tmp_path, name="map.csv")
    assert numbers["yak"] is None
    assert targets.members[numbers["pet"]] == (0, 1)


@pytest.mark.parametrize("content", ["[1]", "{", '{"pet": 3}', '{"pet": []}'])
def test_a_map_of_another_form_is_refused(content, tmp_path):
    with pytest.raises(UsageError, match="is neither JSON such as"):
        match(["pet"], content, tmp_path)


def test_a_map_that_names_an_unknown_class_is_refused(tmp_path):
    with pytest.raises(UsageError, match="says 'bat' for folder 'pet'"):
        match(["pet"], {"pet": "bat"}, tmp_path)


def test_the_calibration_error_is_the_gap_between_confidence_and_accuracy():
    sure = np.log([0.8, 0.2 / 3, 0.2 / 3, 0.2 / 3]).tolist()
    found = judged(Targets.of(CLASSES), [sure] * 10, [0] * 5 + [1] * 5)
    assert found["calibration_error"] == pytest.approx(0.3, abs=1e-6)
    assert found["accuracy"] == {"cat": 1.0, "dog": 0.0}
    assert (found["n"], found["top1"], found["top5"]) == (10, 0.5, 1.0)


@pytest.fixture
def trained(request_run):
    return load_trained(train(request_run("classify", "steps=6")).run.folder)


@pytest.fixture
def pictures(store, tmp_path):
    """The val images of the store as pictures in class folders."""
    tokenizer, val = ToyTokenizer(Preprocess("center-crop", (64, 64))), store["val"]
    for i in range(len(val)):
        ids = torch.from_numpy(store.ids(val[i].ranks).astype(np.int64))
        path = tmp_path / "pictures" / f"{val[i].key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(tokenizer.to_uint8(tokenizer.decode(ids[None]))[0]).save(path)
    return tmp_path / "pictures"


def test_a_classifier_is_judged_alike_on_store_and_pictures(trained, store, pictures):
    on_store, on_images = (
        evaluate_store(trained, store.url, "val"),
        evaluate_images(trained, pictures),
    )
    assert {"top1", "top5", "calibration_error", "accuracy"} <= set(on_store)
    assert on_images.pop("rejected") == 0
    assert on_images.pop("loss") == pytest.approx(on_store.pop("loss"), rel=1e-5)
    assert on_images.pop("calibration_error") == pytest.approx(
        on_store.pop("calibration_error"), abs=1e-5
    )
    assert on_images == on_store
    labels = store["val"].labels
    mean = sum(
        share * (labels == int(name[-1])).sum() for name, share in on_store["accuracy"].items()
    )
    assert mean / 13 == pytest.approx(on_store["top1"])


def test_a_class_map_is_used_on_pictures(trained, pictures, tmp_path):
    before = evaluate_images(trained, pictures)
    for number in range(4):
        (pictures / f"class{number}").rename(pictures / f"n{number}")
    file = tmp_path / "map.json"
    file.write_text(json.dumps({f"n{number}": f"class{number}" for number in range(4)}))
    assert evaluate_images(trained, pictures, scope=Scope(file)) == before
    shutil.move(pictures / "n3", tmp_path)
    assert evaluate_images(trained, pictures, scope=Scope(file))["classes"] == 3


def test_a_sample_of_the_pictures_is_drawn_by_seed(trained, pictures):
    def drawn(seed):
        gallery = open_gallery(trained, pictures, scope=Scope(sample=5, seed=seed))
        return [key for decoded in gallery.decoded() for key in decoded.keys]

    assert len(drawn(1)) == 5
    assert drawn(1) == drawn(1) != drawn(2)
    assert evaluate_images(trained, pictures, scope=Scope(sample=99))["n"] == 13
