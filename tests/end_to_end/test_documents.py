"""The pages' commands, run: every line of shell in README.md and docs/ that `EXCUSED` leaves.

A page is run from top to bottom in an empty folder. What a line reads and no line above it has
made comes from `PROVIDED`, small and drawn; `SHORTER` says what is changed so that it takes
seconds. That options, recipes and settings exist is asked of every line as it stands, also of the
excused ones, in tests/house/test_doc_commands.py.
"""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pipelines.demo.scenes import CLASSES, Corpus, write_corpus
from seit_train.cli.main import main as seit_train
from tests.documents import PAGES, Block, Command, blocks, commands
from tests.pipelines.command_lines import parsed
from tests.toy_masks import write_masked_corpus
from tokenstore.cli.main import main as tokenstore

# Lines that are not run: what they match, and why.
EXCUSED = {
    r"^(?!tokenstore|seit-train|python)": "not ours, or make: see tests/house/test_doc_commands.py",
    r"(s3|gs|https)://": "a bucket or a server; test_build_remote.py has both",
    r"--engine ray": "a cluster; test_build_ray.py starts one",
    r"mosaic": "the example package; tests/house/test_foreign_package.py installs and uses it",
    r"^tokenstore fit": "half an hour; tests/tokenstore/test_fit.py fits a small one",
    r"mine\.safetensors": "what that line makes",
    r"^seit-train tokenadapt": "minutes; tests/seit_train/test_tokenadapt.py trains a small one",
    r"deit_small\.pth": "published weights; tests/seit_train/test_initial.py writes such files",
    r"\.onnx": "the extra `export`; tests/seit_train/test_exporting.py has it or skips",
    r"pipelines\.imagenet1k (?!.*--dry-run)": "days; tests/pipelines/test_trials.py runs a trial",
    r"pipelines\.storage_tradeoff": "many; tests/pipelines/test_storage_tradeoff.py runs a trial",
    r"golden_store": "changes the project; test_releasing.py runs the page in a copy",
    r"pipelines\.demo\.scenes": "instead of another line; tests/pipelines/test_demo_scenes.py",
}
# What is changed in a line that is run, one after the other: pattern, replacement.
SHORTER = (
    (r"--tokenizer vit-vqgan( --weights \S+)?", "--image-size 128"),  # the one that ships
    (r"(roundtrip|encode)(.*) --image-size 128", r"\1\2"),
    (r"--device cuda|--precision bf16", ""),
    (r"--part 0/100", "--part 0/1"),
    (r"--workers 12", "--workers 1"),
    (r"--recipe (seit|seitpp)_\w+", "--recipe cpu_tiny"),
    (r"--tasks 2,5 --memory 30000,300000", "--tasks 2 --memory 3000"),
    (
        r"^(seit-train (?:mtm|classify|segment|pixels) (?!.*data\.replay).*)$",
        r"\1 epochs=null steps=2 batch_size=8",
    ),
    (r"(steps=2 batch_size=8)$", r"\1 optim.warmup_steps=0 loop.log_every=1"),
    (r"^(seit-train pixels .*)$", r"\1 workers=0"),
    (r"--sample 1000", "--sample 4"),
    (r"--eps \S+", "--eps 0,1 --steps 1"),
    (r"--budget \S+", "--budget 1"),
    (r":1-5", ":1"),
    (r"--count 36 --iterations 20", "--count 2 --iterations 2"),
)
SCENES = Corpus({"train": 8, "val": 2}, size=64)
NAMES = ("cat", "dog", "lynx", *CLASSES[3:])  # of the photos' classes
INPUTS = ("images", "store", "stores", "run", "runs", "place", "init", "vocabulary")


def draw_photos(folder: Path, corpus: Corpus = SCENES) -> None:
    """Drawn scenes in class folders, whose names the pages' commands know."""
    write_corpus(folder, corpus, workers=1)
    (folder / "classes.json").unlink()
    for split in corpus.counts:
        for drawn, name in zip(CLASSES[:3], NAMES, strict=False):
            (folder / split / drawn).rename(folder / split / name)


def draw_one(split: str) -> Callable[[Path], None]:
    """Class folders of one split, not below a folder of its name."""

    def draw(folder: Path) -> None:
        draw_photos(folder)
        for name in NAMES:
            (folder / split / name).rename(folder / name)
        shutil.rmtree(folder / "train")
        shutil.rmtree(folder / "val")

    return draw


def draw_file(file: Path) -> None:
    """One picture."""
    draw_photos(file.with_suffix(".drawn"), Corpus({"train": 1}, size=64))
    next(file.with_suffix(".drawn").rglob("*.jpg")).rename(file)


def build_of(images: str) -> str:
    """The line that makes a store of these images, under the name that `{}` stands for."""
    return f"tokenstore build {images} -o {{}} --image-size 128"


# What a page may take for granted: a function that draws it, or the line that makes it.
PROVIDED = {
    **dict.fromkeys(("photos", "imagenet21k", "corpus"), draw_photos),
    "imagenet": lambda folder: draw_photos(folder, Corpus({"train": 2, "val": 1}, size=64)),
    "my_photos": draw_one("train"),
    "val": draw_one("val"),
    "new_photos": lambda folder: draw_photos(folder, Corpus({"train": 2}, size=64, seed=1)),
    "seg-camvid": lambda folder: write_masked_corpus(folder, {"train": 16, "val": 8}),
    **dict.fromkeys(("a.jpg", "b.jpg"), draw_file),
    **dict.fromkeys(("photos.tokenstore", "a.tokenstore"), build_of("photos")),
    **dict.fromkeys(("in21k.tokenstore", "in1k.tokenstore"), build_of("photos")),
    "imagenet.tokenstore": build_of("photos"),
    "b.tokenstore": build_of("new_photos"),
    "camvid.tokenstore": build_of("seg-camvid"),
    "runs/mtm": "seit-train mtm photos.tokenstore -o {}",
    "runs/classify": "seit-train classify photos.tokenstore -o {}",
    "runs/codebook": "seit-train classify photos.tokenstore -o {} model.embedding=codebook",
    "runs/camvid": "seit-train segment camvid.tokenstore -o {}",
}


def excuse(command: Command) -> str | None:
    """Why a line is not run; None if it is."""
    reasons = (why for pattern, why in EXCUSED.items() if re.search(pattern, command.text))
    return next(reasons, None)


def inputs(command: Command) -> list[str]:
    """What one of our commands reads, as far as places go: `photos/val -> photos`."""
    if command.words[0] == "python":
        return [word for word in command.words[3:] if word in PROVIDED]
    values = parsed(command.typed)
    found: list[str] = []
    for name in INPUTS:
        value = values.get(name) or ()
        found += [value] if isinstance(value, str) else map(str, value)
    return [_root(place) for place in found]


def _root(place: str) -> str:
    parts = Path(place).parts
    return "/".join(parts[:2]) if parts[0] == "runs" else parts[0]


def output(command: Command) -> str | None:
    """What stands behind `-o`, or is the store that a build is named after."""
    if "-o" in command.words:
        return _root(command.words[command.words.index("-o") + 1])
    builds = command.words[:2] == ("tokenstore", "build")
    return f"{Path(command.words[2]).name}.tokenstore" if builds else None


def shortened(line: str) -> list[str]:
    """The words of a line, with what `SHORTER` changes."""
    for pattern, replacement in SHORTER:
        line = re.sub(pattern, replacement, line)
    return shlex.split(line)


def call(line: str) -> None:
    """Run a line of ours in this process; it has to end with exit code 0."""
    words, _, file = line.partition(" > ")
    program, *rest = shortened(words)
    main: click.Command = {"tokenstore": tokenstore, "seit-train": seit_train}.get(program)
    if program == "python":
        main, rest = importlib.import_module(rest[1]).main, rest[2:]
    ran = CliRunner().invoke(main, rest)
    assert ran.exit_code == 0, f"`{' '.join([program, *rest])}`\n{ran.output}\n{ran.exception!r}"
    if file:
        Path(file).write_text(ran.stdout, encoding="utf-8")


@pytest.fixture(scope="module")
def provide(tmp_path_factory):
    """`provide(NAME, FOLDER)` copies what `PROVIDED` has under that name; each is made once."""
    world = tmp_path_factory.mktemp("world")

    def provided(name: str, folder: Path) -> None:
        place = world / name
        made = PROVIDED[name]
        if not place.exists():
            place.parent.mkdir(exist_ok=True)
            if callable(made):
                made(place)
            else:
                line = made.format(name)
                for needed in inputs(Command(name, tuple(line.split()))):
                    provided(needed, world)
                with pytest.MonkeyPatch.context() as patch:
                    patch.chdir(world)
                    call(line)
        if folder != world and place.is_dir():
            shutil.copytree(place, folder / name, symlinks=True)
        elif folder != world:
            shutil.copy(place, folder / name)

    return provided


def ready(command: Command, provide, folder: Path) -> None:
    """Bring what the line reads, and take away what would stand in the way of what it makes."""
    for name in inputs(command):
        begun = folder / f"{name}.building"  # by `tokenstore plan`
        if not (folder / name).exists() and not begun.exists():
            provide(name, folder)
    made = output(command)
    if made and not {"--resume", "--part"} & set(command.words) and (folder / made).is_dir():
        shutil.rmtree(folder / made)


def runnable(page: str) -> list[Block | Command]:
    """What is run of a page, in its order: lines of shell, and marked blocks of Python."""
    found: list[Block | Command] = []
    for block in blocks(page):
        found += [command for command in commands(block) if not excuse(command)]
        found += [block] if block.runs and block.language == "python" else []
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)])
def test_the_commands_of_a_page_run(page, provide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = ""
    for each in runnable(page):
        if isinstance(each, Command):
            try:
                ready(each, provide, tmp_path)
                call(shlex.join(each.words).replace("'>'", ">"))
            except (AssertionError, KeyError) as error:
                pytest.fail(f"{each.place}: `{each.text}` did not run here. {error}")
        else:
            program += each.text  # a later block goes on where an earlier one ended
            if not (tmp_path / "photos.tokenstore").exists():
                provide("photos.tokenstore", tmp_path)
            command = [sys.executable, "-c", program]
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
            assert ran.returncode == 0, f"{each.page}:{each.number}\n{ran.stderr}"


def test_what_a_page_reads_is_made_by_it_or_provided_or_excused():
    """A new line of a page names what is known here, or `PROVIDED` or `EXCUSED` gets an entry."""
    unknown = []
    for page in PAGES:
        made: set[str | None] = set()
        for command in runnable(page):
            if isinstance(command, Command):
                needed = [name for name in inputs(command) if name not in made]
                unknown += [f"{command.place}: {n}" for n in needed if n not in PROVIDED]
                made.add(output(command))
    assert unknown == [], "add it to PROVIDED, or say in EXCUSED why the line cannot run here"


def test_every_excuse_is_needed():
    lines = [
        command.text for page in PAGES for block in blocks(page) for command in commands(block)
    ]
    idle = [pattern for pattern in EXCUSED if not any(re.search(pattern, line) for line in lines)]
    assert idle == []
