"""Accuracy over bytes: which runs are made, what is written anew, and what is drawn."""

import json
import shlex

import pytest
from click.testing import CliRunner
from PIL import Image

from pipelines import accuracy_over_bytes, storage_tradeoff
from pipelines.prepare import reencoded
from tests.pictures import write_pictures
from tokenstore.tokenizers.pocket import package_weights

RECIPE = """
classify:
  steps: 1
  batch_size: 8
  lr: 1.0e-3
  model: {width: 16, depth: 1, heads: 2, stem: conv2x2, embedding: ids, ids: {width: 8}}
  augment: []
pixels:
  steps: 1
  batch_size: 8
  lr: 1.0e-3
  model: {width: 16, depth: 1, heads: 2}
  image_size: 32
  workers: 0
"""


@pytest.fixture
def photos(tmp_path):
    return write_pictures(tmp_path / "photos", {"train": 24, "val": 8})


def call(module, *words):
    return CliRunner().invoke(module.main, [str(word) for word in words], catch_exceptions=False)


def commands(photos, *words):
    ran = call(storage_tradeoff, photos, "--dry-run", *words)
    assert ran.exit_code == 0, ran.output
    return [shlex.split(line) for line in ran.stdout.splitlines()]


def test_a_step_that_two_families_need_is_done_once(photos):
    both = ("--family", "tokens", "--family", "pretrained", "--family", "uniform")
    lines = [shlex.join(words) for words in commands(photos, *both)]
    assert len(lines) == len(set(lines))
    assert sum("runs/pocket-128-1 " in line and "classify" in line for line in lines) == 1


def test_all_trainings_have_as_many_steps_and_points_for_all_of_them(photos):
    found = commands(photos, "--steps", "70", "--scores", photos / "train/class0/000.png")
    trainings = [words for words in found if words[0] == "seit-train"]
    assert all("steps=70" in words for words in trainings)
    runs = [words[words.index("-o") + 1] for words in trainings]
    drawn = found[-1]
    points = [drawn[i + 1 : i + 5] for i, word in enumerate(drawn) if word == "--point"]
    assert {point[2] for point in points} | set(points[0][3:]) == set(runs)
    assert len({tuple(point[:2]) for point in points}) == len(points) == len(runs)


def test_weak_augmentation_is_that_of_pixels_only(photos):
    weak, strong = (
        [words for words in commands(photos, "--augment", which) if words[0] == "seit-train"]
        for which in ("weak", "strong")
    )
    assert {words[1] for words in weak if "mixing=[]" in words} == {"pixels"}
    assert [words[4] for words in strong if "mixing=[]" in words] == ["runs/weak"]


def test_tokens_of_few_positions_get_windows_of_stride_1(photos):
    few = ("--tokens", "pocket:64", "--tokens", "pocket:128", "--family", "tokens")
    stems = {
        words[2]: "model.stem=conv2x2-stride1" in words
        for words in commands(photos, *few)
        if words[1] == "classify"
    }
    assert stems == {"pocket-64.tokenstore": True, "pocket-128.tokenstore": False}


@pytest.mark.parametrize("words", ["pocket", "pocket:", ":128", "pocket:128=nowhere.ckpt"])
def test_tokens_that_say_no_size_or_a_file_that_is_not_there_are_refused(photos, words):
    ran = call(storage_tradeoff, photos, "--tokens", words, "--dry-run")
    assert ran.exit_code == 2


def test_the_tokenizer_that_comes_along_has_the_bytes_that_are_told():
    assert storage_tradeoff.OWN_WEIGHTS["pocket"] == package_weights().stat().st_size


def test_pictures_are_written_anew_and_val_stays_as_it_is(photos, tmp_path):
    (photos / "classes.json").write_text("[]")
    Image.new("L", (90, 60), 128).save(photos / "train" / "class0" / "grey.png")
    folder = tmp_path / "small"
    words = (photos, "-o", folder, "--quality", 30, "--side", 20)
    assert "25 pictures" in call(reencoded, *words).stdout
    with Image.open(folder / "train" / "class0" / "grey.jpg") as grey:
        assert (grey.mode, grey.size, grey.format) == ("L", (30, 20), "JPEG")
    assert (folder / "val").resolve() == photos / "val"
    assert (folder / "classes.json").read_text() == "[]"
    assert len(list(folder.glob("train/*/*.jpg"))) == 25
    assert "25 pictures" in call(reencoded, *words).stdout
    other = call(reencoded, photos, "-o", folder, "--quality", 31, "--side", 20)
    assert (other.exit_code, "was written with" in other.output) == (2, True)


def test_lower_quality_takes_fewer_bytes_and_small_pictures_are_not_enlarged(photos, tmp_path):
    def size(*words):
        folder = tmp_path / "-".join(map(str, words))
        assert call(reencoded, photos, "-o", folder, *words).exit_code == 0
        return sum(path.stat().st_size for path in folder.glob("train/*/*.jpg"))

    assert size("--quality", 10) < size("--quality", 75) == size("--side", 999)


def test_what_cannot_be_written_is_named_and_what_was_half_written_is_made_anew(photos, tmp_path):
    broken = photos / "train" / "class1" / "broken.jpg"
    broken.write_bytes(b"no picture")
    folder = tmp_path / "anew"
    ran = call(reencoded, photos, "-o", folder)
    assert ran.exit_code == 2 and str(broken) in ran.output
    assert not folder.exists()
    broken.unlink()
    (tmp_path / "anew.making" / "train" / "class1" / "left.jpg").write_bytes(b"")
    assert call(reencoded, photos, "-o", folder, "--limit", 9).exit_code == 0
    assert len(list(folder.glob("train/*/*.jpg"))) == 9
    (photos / "train" / "class0" / "000.bmp").write_bytes(b"")
    assert "differ in suffix alone" in call(reencoded, photos, "-o", tmp_path / "x").output


@pytest.fixture
def runs(tmp_path):
    def write(name, images, size, *top1):
        (tmp_path / name).mkdir()
        text = json.dumps({"images": images, "bytes": size})
        (tmp_path / name / "footprint.json").write_text(text)
        lines = [{"step": 1, "loss": 2.0}, *({"step": 2, "val_top1": value} for value in top1)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / name / "metrics.jsonl").write_text(text)
        return tmp_path / name

    return write


def test_points_are_tabled_and_drawn(runs, tmp_path):
    a, b = runs("a", 10, 4000, 0.9, 0.5), runs("b", 2, 1000, 0.25)
    points = ("--point", "tokens", "all", a, a, "--point", "both", "0.2", b, f"{a},{b}")
    ran = call(accuracy_over_bytes, *points, "--note", "Apart: 7.", "-o", tmp_path / "out")
    assert ran.exit_code == 0, ran.output
    assert "| tokens | all | 10 | 4 | 400 | 50.0 |" in ran.stdout
    assert "| both | 0.2 | 12 | 5 | 417 | 25.0 |" in ran.stdout
    assert ran.stdout == (tmp_path / "out.md").read_text() + "\n"
    assert ran.stdout.endswith("\nApart: 7.\n")
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.width > 500
    told = json.loads(call(accuracy_over_bytes, *points, "-o", tmp_path / "o", "--json").stdout)
    assert told[0] == {"line": "tokens", "label": "all", "images": 10, "bytes": 4000, "top1": 0.5}


def test_a_run_without_an_end_is_not_drawn(runs, tmp_path):
    begun = runs("begun", 1, 1)
    ran = call(accuracy_over_bytes, "--point", "a", "b", begun, begun, "-o", tmp_path / "out")
    assert ran.exit_code == 1 and "no top-1 yet" in ran.output
    nowhere = tmp_path / "none"
    ran = call(accuracy_over_bytes, "--point", "a", "b", nowhere, nowhere, "-o", tmp_path / "out")
    assert ran.exit_code == 1 and "cannot be read" in ran.output


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_trial_ends_with_a_picture_and_again_does_nothing(
    photos, tmp_path, toy_tokenizer, monkeypatch
):
    for name in ("SHARES", "PRETRAINED"):
        monkeypatch.setattr(storage_tradeoff, name, ("0.5",))
    monkeypatch.setattr(storage_tradeoff, "SIDES", ("20",))
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    scores = tmp_path / "scores.csv"
    keys = [path.relative_to(photos / "train") for path in photos.glob("train/*/*.png")]
    rows = [f"{key.with_suffix('').as_posix()},{number}\n" for number, key in enumerate(keys)]
    scores.write_text("key,score\n" + "".join(rows))
    words = (photos, "-o", tmp_path / "out", "--recipe", tmp_path / "tiny.yaml", "--limit", 16)
    families = ("--family", "resolution", "--family", "cscore", "--family", "pretrained")
    more = ("--tokens", f"{toy_tokenizer}:32", "--scores", scores, "--steps", 20, *families)
    ran = call(storage_tradeoff, *words, *more)
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "out" / "accuracy.png").stat().st_size > 10_000
    again = call(storage_tradeoff, *words, *more)
    assert again.stderr.count("done before") == again.stderr.count("[")
