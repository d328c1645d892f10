"""Every pipeline prints commands that exist, and says in its header what it takes and gives."""

import importlib
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from tests.pipelines.command_lines import check_settings, parsed

PIPELINES = Path(__file__).parents[2] / "pipelines"
ARGUMENTS = {
    "imagenet1k": [["corpus"], ["corpus", "--gpus", "8"]],
    "imagenet21k": [["corpus", "corpus"]],
    "imagenet100": [["corpus", "synsets.txt"]],
    "ade20k": [["corpus"], ["corpus", "--pretrained", "corpus"]],
    "finegrained": [[name, "corpus"] for name in ("flowers", "cars", "inat18", "inat19")],
    "robustness": [
        ["--imagenet-r", "corpus", "--sketch", "corpus"],
        ["--objectnet", "corpus", "--objectnet-map", "synsets.txt"],
    ],
    "continual": [["corpus"], ["corpus", "--tasks", "3", "--memory", "1000,2000"]],
    "low_storage": [["--method", "seit"], ["--pixels"]],
    "storage_tradeoff": [
        ["corpus"],
        ["corpus", "--scores", "synsets.txt", "--augment", "strong", "--family", "cscore"],
        ["corpus", "--tokens", "pocket:64", "--tokens", "vqgan-f16-1024:256=synsets.txt"],
    ],
    "own_images": [["corpus"], ["corpus", "--unlabelled"]],
}
WITHOUT_TRIAL = {"continual"}  # a task is learnt whole
DRAW = ["python", "-m", "pipelines.demo.scenes"]
TRAININGS = {"mtm", "classify", "segment", "pixels", "tokenadapt"}
CASES = [(name, words) for name, several in ARGUMENTS.items() for words in several]


def write_colours(folder, count):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (16, 16), (number, 99, 99)).save(folder / f"{number}.png")


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "synsets.txt").write_text("n01440764 tench\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def dry_run(name, *words):
    module = importlib.import_module(f"pipelines.{name}")
    ran = CliRunner().invoke(module.main, [*words, "--dry-run"], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return [shlex.split(line) for line in ran.stdout.splitlines()]


@pytest.mark.parametrize("limit", [[], ["--limit", "40"]], ids=["whole", "trial"])
@pytest.mark.parametrize(("name", "words"), CASES, ids=[" ".join([n, *w]) for n, w in CASES])
def test_a_dry_run_prints_commands_that_exist(name, words, limit, here):
    if limit and name in WITHOUT_TRIAL:
        pytest.skip(f"{name} has no --limit")
    made, entered, *commands = dry_run(name, *words, *limit)
    assert made[:2] == ["mkdir", "-p"] and entered == ["cd", made[2]]
    assert made[2].startswith(str(here / "out"))
    for command in commands:
        if command[0] == "torchrun":
            command = ["seit-train", *command[command.index("seit_train") + 1 :]]
        if command[0] == "env":
            assert importlib.util.find_spec(command[4]) is not None
            continue
        values = parsed(command)
        if command[1] in TRAININGS:
            check_settings(command[1], values)
    assert not (here / "out").exists()


def test_each_fine_grained_set_has_a_folder_of_its_own(here):
    places = [dry_run("finegrained", name, "corpus")[0][2] for name in ("flowers", "cars")]
    assert places == [f"{here}/out/finegrained-flowers", f"{here}/out/finegrained-cars"]


@pytest.mark.parametrize("limit", [[], ["--limit", "16"]], ids=["whole", "trial"])
@pytest.mark.parametrize("own", [None, "classes", "val", "plain"])
def test_a_dry_run_of_the_demo_prints_commands_that_exist_and_makes_nothing(own, limit, here):
    folders = {"classes": ["cat", "dog"], "val": ["train/cat", "val/cat"], "plain": [""]}
    for folder in folders.get(own, []):
        write_colours(here / "corpus" / folder, 12)
    before = sorted(here.rglob("*"))
    asked = ["--images", "corpus"] if own else []
    commands = dry_run("demo.run", *asked, *limit)
    drawn = [words for words in commands if words[0] == "python"]
    assert [words[:3] for words in drawn] == ([] if own else [DRAW])
    ours = [words for words in commands if words[0] in ("tokenstore", "seit-train")]
    for command in ours:
        values = parsed(command)
        if command[1] in TRAININGS:
            check_settings(command[1], values)
    judged = [] if own == "plain" else ["classify", "evaluate"]
    assert [words[1] for words in ours] == ["build", "verify", "mtm", *judged]
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("name", [*ARGUMENTS, "demo.run"])
def test_a_header_says_hours_disk_expected_numbers_and_their_source(name):
    text = importlib.import_module(f"pipelines.{name}").__doc__
    labels = [line.split("  ")[0] for line in text.splitlines()]
    assert [label for label in labels if label in ("hours", "disk", "expected", "source")] == [
        "hours",
        "disk",
        "expected",
        "source",
    ]
    assert "not measured" in text.lower()
    assert f"python -m pipelines.{name}" in text


def test_every_pipeline_is_held_to_this():
    files = {path.stem for path in PIPELINES.glob("*.py")} - {
        "steps",
        "drawing",
        "accuracy_over_bytes",
        "continual_figure",
    }
    assert files == set(ARGUMENTS)


def test_pipelines_call_commands_and_never_import_the_packages():
    for path in PIPELINES.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "import tokenstore" not in text and "import seit_train" not in text, path
        assert "from tokenstore" not in text and "from seit_train" not in text, path
