"""What all pipelines share: steps that are commands, run one after the other in one folder.

A pipeline is a list of `Step`s, made from a `Request`, which is what the options say. `run` goes
through them in its folder. A step that ended well leaves a mark with its words in FOLDER/steps/,
and is not run again as long as its words stay the same and what it makes is there; one that was
interrupted is run again by the same words, and the commands themselves continue. Commands are
called as a user would type them; nothing of our packages is imported.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parents[1]
OUT = Path("out")
TRIAL_BATCH, TRIAL_STEPS = 8, 2
TRIAL = f"A trial: N images of each split, {TRIAL_STEPS} steps of each training."
FEWEST_TO_ADAPT = 20  # images of which `seit-train tokenadapt` takes its val split


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: of the step, one word; FOLDER/steps/NAME.out holds what the command printed.
        words: the command and its arguments.
        makes: a file or folder that is there once the step is done; None for one that only looks.
    """

    name: str
    words: tuple[str, ...]
    makes: str | None = None


@dataclass(frozen=True)
class Published:
    """A number that a step's output can be held against.

    Attributes:
        step: name of the step, which prints JSON.
        key: of the number in it, dotted where it lies deeper.
        value: what was published, and where, as a person reads it.
    """

    step: str
    key: str
    value: str


@dataclass(frozen=True)
class Request:
    """What a user asks of a pipeline.

    Attributes:
        folder: where everything is made; commands run in it.
        tokenizer: name of the tokenizer.
        weights: file or URL of its weights; None means its own place.
        image_size: pixels of a tokenized image; None means the tokenizer's own.
        recipe: one for all trainings; None means those of the pipeline.
        gpus: processes of a training on this machine, one a GPU.
        limit: images of each split, in a trial.
        settings: KEY=VALUE for all trainings.
        dry_run: print the commands only.
    """

    folder: Path
    tokenizer: str = ""
    weights: str | None = None
    image_size: str | None = None
    recipe: str | None = None
    gpus: int = 1
    limit: int | None = None
    settings: tuple[str, ...] = ()
    dry_run: bool = False

    def tokenizing(self) -> tuple[str, ...]:
        """The options that say how images become tokens."""
        words: tuple[str, ...] = ("--tokenizer", self.tokenizer)
        if self.weights:
            words += ("--weights", self.weights)
        if self.image_size:
            words += ("--image-size", self.image_size)
        return words

    def prepare(self, module: str, *words: str | Path) -> Step:
        """Lay a corpus out as `images/train` and `images/val`, by a module of pipelines.prepare."""
        python = ("env", f"PYTHONPATH={ROOT}", "python", "-m", f"pipelines.prepare.{module}")
        return Step("prepare", (*python, *map(str, words), "-o", "images"), "images/complete")

    def build(self, images: str | Path, store: str, *options: str) -> tuple[Step, Step]:
        """Build a store and verify it."""
        words = ("tokenstore", "build", str(images), "-o", store, *self.tokenizing(), *options)
        if self.limit:
            words += ("--limit", str(self.limit))
        name = store.removesuffix(".tokenstore")
        verify = ("tokenstore", "verify", store)
        return Step(f"build-{name}", words, f"{store}/manifest.json"), Step(
            f"verify-{name}", verify
        )

    def adapt(self, images: str | Path, recipe: str, limit: int | None = None) -> Step:
        """Train a TokenAdapt; the published recipes look for it in runs/adapt."""
        words = ("seit-train", "tokenadapt", str(images), "-o", "runs/adapt", *self.tokenizing())
        most = max(FEWEST_TO_ADAPT, self.limit) if self.limit else limit
        if most:
            words += ("--limit", str(most))
        words += ("--recipe", self.recipe or recipe, "--resume", *self._settings())
        return Step("tokenadapt", words, "runs/adapt/checkpoints/best/model.safetensors")

    def train(self, task: str, data: str | Path, run: str, recipe: str, *more: str) -> Step:
        """Train a task on all GPUs; `more` are options or KEY=VALUE of this training alone."""
        program: tuple[str, ...] = ("seit-train", task)
        if self.gpus > 1:
            program = ("torchrun", "--nproc-per-node", str(self.gpus), "-m", "seit_train", task)
        words = (*program, str(data), "-o", run, "--recipe", self.recipe or recipe, "--resume")
        name = run.removeprefix("runs/")
        last = f"{run}/checkpoints/last/model.safetensors"
        return Step(name, (*words, *more, *self._settings()), last)

    def _settings(self) -> tuple[str, ...]:
        """The user's settings; in a trial before them those that make a training short."""
        if not self.limit:
            return self.settings
        batch = min(TRIAL_BATCH, self.limit)
        short = ("epochs=null", f"steps={TRIAL_STEPS}", f"batch_size={batch}")
        return (*short, "optim.warmup_steps=0", "loop.log_every=1", *self.settings)


def evaluate(name: str, run: str | Path, *on: str) -> Step:
    """Judge a run; its metrics are JSON in steps/NAME.out."""
    return Step(name, ("seit-train", "evaluate", str(run), *on, "--json"))


def pipeline(
    name: str, tokenizer: str = "vit-vqgan", without: Sequence[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a click command the options of all pipelines; it gets them as one `Request`.

    Args:
        name: of the folder below `out/` that it works in, with {ARGUMENT} for what is given there.
        tokenizer: the one to use where none is asked for.
        without: options that this pipeline has no use for.
    """
    options = {
        "settings": click.argument("settings", nargs=-1, metavar="[KEY=VALUE]..."),
        "output": click.option("-o", "--output", metavar="DIR", help=f"Else {OUT}/{name}."),
        "tokenizer": click.option("--tokenizer", default=tokenizer, show_default=True),
        "weights": click.option("--weights", metavar="FILE|URL", help="Of the tokenizer."),
        "image_size": click.option("--image-size", metavar="N|HxW", help="Not the published one."),
        "recipe": click.option("--recipe", metavar="NAME|FILE", help="Not the published one."),
        "gpus": click.option("--gpus", default=1, show_default=True, type=click.IntRange(min=1)),
        "limit": click.option("--limit", type=click.IntRange(min=2), help=TRIAL),
        "dry_run": click.option("--dry-run", is_flag=True, help="Print the commands, run none."),
    }

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def command(**given: Any) -> None:
            shared = {key: given.pop(key) for key in Request.__annotations__ if key in given}
            trial = f"-first-{shared['limit']}" if shared.get("limit") else ""
            folder = Path(given.pop("output") or OUT / f"{name.format(**given)}{trial}")
            shared |= {key: _from_here(shared.get(key)) for key in ("weights", "recipe")}
            function(request=Request(folder=folder.absolute(), **shared), **given)

        for key in reversed([key for key in options if key not in without]):
            command = options[key](command)
        return command

    return decorate


def _from_here(place: str | None) -> str | None:
    """A file's absolute path, since commands run elsewhere; names and URLs as they are."""
    return str(Path(place).absolute()) if place and Path(place).is_file() else place


def run(request: Request, steps: Sequence[Step], published: Sequence[Published] = ()) -> None:
    """Go through the steps, or print them; end with what came out beside what was published."""
    if request.dry_run:
        click.echo(shlex.join(["mkdir", "-p", str(request.folder)]))
        click.echo(shlex.join(["cd", str(request.folder)]))
        for step in steps:
            click.echo(shlex.join(step.words))
        return
    marks = request.folder / "steps"
    marks.mkdir(parents=True, exist_ok=True)
    for number, step in enumerate(steps, 1):
        title = f"[{number}/{len(steps)}] {step.name}"
        if _is_done(request.folder, step):
            click.secho(f"{title}: done before", err=True)
            continue
        click.secho(f"\n{title}\n$ {shlex.join(step.words)}", err=True, bold=True)
        _run_step(request.folder, step)
    _tell(request, published)


def _mark(folder: Path, step: Step) -> Path:
    return folder / "steps" / f"{step.name}.json"


def _is_done(folder: Path, step: Step) -> bool:
    """Whether the step ended well with these words, and what it printed and made is still there."""
    try:
        words = json.loads(_mark(folder, step).read_text(encoding="utf-8"))["words"]
    except (OSError, ValueError, KeyError):
        return False
    made = (f"steps/{step.name}.out", *([step.makes] if step.makes else []))
    return words == list(step.words) and all((folder / name).exists() for name in made)


def _run_step(folder: Path, step: Step) -> None:
    """Run one command; what it prints is kept, and shown. Its failure ends the pipeline."""
    mark, printed = _mark(folder, step), folder / "steps" / f"{step.name}.out"
    mark.unlink(missing_ok=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    with printed.open("wb") as out:
        environment = os.environ | {"PATH": path}
        command = subprocess.Popen(step.words, cwd=folder, stdout=out, env=environment)
        code = _wait(command)
    click.echo(printed.read_text(encoding="utf-8", errors="replace").rstrip(), err=True)
    if code:
        click.echo(
            f"The step '{step.name}' ended with exit code {code}. When its cause is gone, the same "
            "line goes on from there.",
            err=True,
        )
        sys.exit(code if code > 0 else 128 - code)
    started = mark.with_suffix(".part")
    started.write_text(json.dumps({"words": step.words}), encoding="utf-8")
    started.replace(mark)


def _wait(command: "subprocess.Popen[bytes]") -> int:
    """The exit code; a stopped pipeline waits until its command has saved what it has."""
    with _sigterm_passed_on(command):
        while True:
            try:
                return command.wait()
            except KeyboardInterrupt:  # the terminal has told the command, too
                continue


@contextmanager
def _sigterm_passed_on(command: "subprocess.Popen[bytes]") -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: command.terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell(request: Request, published: Sequence[Published]) -> None:
    """Print each number beside the published one."""
    for number in published:
        text = (request.folder / "steps" / f"{number.step}.out").read_text(encoding="utf-8")
        value = json.loads(text)
        for key in number.key.split("."):
            value = value[key]
        click.echo(f"{number.step:<28} {number.key} {value:8.4f}   published {number.value}")
    if request.limit and published:
        click.echo("a trial of a few images and steps: its numbers say nothing about the method")
    click.echo(f"all in {request.folder}")
