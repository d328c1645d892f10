"""Which way of learning is worth what? One small ViT, one budget, several seeds.

    python -m benchmarks.learning_evidence photos.tokenstore --images photos --adapt RUN -o learning
    python -m benchmarks.learning_evidence photos.tokenstore -o learning --only "LUT 0.25" --seeds 1
    python -m benchmarks.learning_evidence photos.tokenstore -o quick mtm:epochs=2 classify:epochs=2

SeiT from scratch, and as long as pre-training and fine-tuning together; masked token modelling and
fine-tuning; SeiT++ with and without it; LUT by weight and alone; MAGE; pixels; linear probes. Each
is a chain of the commands that users type, with a recipe's settings and the few that differ. What
is done is not repeated, so it can be stopped and started again; all conditions of a seed come
before the next seed. Top-1 is that of the end of a run: no checkpoint is chosen by val. It writes
`learning.md`, `learning.png`, and `curves.png` with the losses of training and val.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.augment_evidence import Results, draw_bars, finished, metrics, policies, run_folder
from seit_train.launch import TrainRequest, requested_config

WEIGHTS = (0.1, 0.25, 0.5, 1.0)  # of LUT's broader context: Tables B and C of its supplement
CURVES = ("SeiT", "SeiT++ without MTM", "MTM, fine-tuned", "SeiT++ with MTM")
PROBE = (
    "probe=linear",
    "lr=0.01",
    "label_smoothing=0",
    "optim.weight_decay=0",
    "optim.layer_decay=null",
    "augment=[{random_crop: {}}]",
)
HALF = ("mask={low: 0.5, high: 1.0, mean: 0.55, deviation: 0.25}",)  # LUT's and MAGE's


@dataclass(frozen=True)
class Stage:
    """One training.

    Attributes:
        task: its command.
        settings: what differs from the recipe.
        init: the stage whose weights it starts from.
        longer: whether it also gets the epochs or steps of an `mtm` stage.
    """

    task: str
    settings: tuple[str, ...] = ()
    init: str | None = None
    longer: bool = False


def stages(adapt: str, images: str) -> dict[str, Stage]:
    """All stages by name; those that need what is not given are left out."""
    known = policies(adapt)
    seit, adapted = (f"augment={json.dumps(known[n])}" for n in ("+ Emb-Noise", "+ TokenAdapt"))
    geometry = {"token_adapt": {"weights": adapt}}
    crop = {"random_resized_crop": {"scale": [0.2, 1.0]}}
    halves = f"augment={json.dumps([{'halves': {'first': [geometry], 'rest': [crop]}}])}"
    found = {
        "SeiT": Stage("classify", (seit,)),
        "SeiT, as long": Stage("classify", (seit,), longer=True),
        "mtm": Stage("mtm"),
        "MTM, fine-tuned": Stage("classify", (seit,), "mtm"),
        "mage": Stage("mtm", ("method=mage", *HALF)),
        "MAGE, fine-tuned": Stage("classify", (seit,), "mage"),
        "lut alone": Stage("mtm", ("method=lut", "lut.base=null", *HALF)),
        "LUT alone, fine-tuned": Stage("classify", (seit,), "lut alone"),
    }
    for weight in WEIGHTS:
        found[f"lut {weight}"] = Stage("mtm", ("method=lut", f"lut.weight={weight}", *HALF))
        found[f"LUT {weight}, fine-tuned"] = Stage("classify", (seit,), f"lut {weight}")
    if adapt:
        found["SeiT++ without MTM"] = Stage("classify", (adapted,))
        found["mtm adapted"] = Stage("mtm", (halves,))
        found["SeiT++ with MTM"] = Stage("classify", (adapted,), "mtm adapted")
    if images:
        found["pixels"] = Stage("pixels")
    for name in ("SeiT", "mtm", "lut alone", "lut 0.25", "mage", "mtm adapted"):
        if name in found:
            found[f"probe of {name}"] = Stage("classify", PROBE, name)
    return found


@dataclass(frozen=True)
class Setup:
    """What all runs share: corpora, recipe, settings as `[TASK:]KEY=VALUE`, folder of the runs."""

    store: str
    images: str
    recipe: str
    settings: tuple[str, ...]
    output: Path

    def of(self, task: str) -> list[str]:
        """The settings that a task gets; pixels have the length of classification."""
        chosen = []
        for setting in self.settings:
            kind, colon, rest = setting.partition(":")
            is_for_one = bool(colon) and "=" not in kind
            if not is_for_one or kind == task:
                chosen.append(rest if is_for_one else setting)
        if task == "pixels" and not any(s.startswith(("epochs=", "steps=")) for s in chosen):
            chosen.append("=".join(map(str, self.length("classify"))))
        return chosen

    def length(self, task: str) -> tuple[str, float]:
        """("epochs", 50.0) or ("steps", 2000): how long a stage of this task is."""
        request = TrainRequest(task, self.store, Path(), self.recipe, self.of(task))
        config = requested_config(request)
        return ("steps", config.steps) if config.steps else ("epochs", config.epochs or 0.0)

    def command(self, name: str, stage: Stage, seed: int) -> list[str]:
        """The words that train a stage, or go on with it."""
        corpus = self.images if stage.task == "pixels" else self.store
        words = [stage.task, corpus, "-o", str(run_folder(self.output, name, seed)), "--resume"]
        words += ["--recipe", self.recipe, f"seed={seed}", *stage.settings, *self.of(stage.task)]
        if stage.longer:
            (unit, own), (other, more) = self.length(stage.task), self.length("mtm")
            if unit != other:
                raise click.UsageError("give mtm and classify both epochs, or both steps")
            words.append(f"{unit}={own + more:g}")
        if stage.init is not None:
            words += ["--init", str(run_folder(self.output, stage.init, seed))]
        return [sys.executable, "-m", "seit_train", *words]


def train(name: str, known: dict[str, Stage], setup: Setup, seed: int) -> None:
    """Train a stage after the one that it starts from; what has ended says so at once."""
    stage = known[name]
    if stage.init is not None:
        train(stage.init, known, setup, seed)
    done = run_folder(setup.output, name, seed) / "ended"
    if not done.exists():
        subprocess.run(setup.command(name, stage, seed), check=True, stdout=sys.stderr)
        done.touch()


def table(results: Results, order: Sequence[str]) -> str:
    """Markdown: mean and standard deviation of top-1 in percent, and every seed."""
    lines = ["| condition | top-1, mean | deviation | each seed |", "|---|---|---|---|"]
    for name in (name for name in order if name in results):
        values = [100 * value for value in results[name].values()]
        spread = f"{statistics.stdev(values):.1f}" if len(values) > 1 else "-"
        each = ", ".join(f"{value:.1f}" for value in values)
        lines.append(f"| {name} | {statistics.mean(values):.1f} | {spread} | {each} |")
    return "\n".join(lines) + "\n"


def draw_losses(results: Results, output: Path, axes: Any) -> None:
    """Loss of training (with its augmentations, dashed) and on val (line), mean of the seeds."""
    for colour, name in enumerate(name for name in CURVES if name in results):
        for kind, style in (("loss", "--"), ("val_loss", "-")):
            runs = [metrics(run_folder(output, name, seed), kind) for seed in results[name]]
            shared = sorted(set.intersection(*(set(run) for run in runs)))
            means = [statistics.mean(run[epoch] for run in runs) for epoch in shared]
            label = f"{name}, {'training' if kind == 'loss' else 'val'}"
            axes.plot(shared, means, f"C{colour}{style}", label=label)
    axes.set_xlabel("epoch")
    axes.set_ylabel("cross-entropy")
    if axes.lines:
        axes.legend(fontsize=8)


def write(results: Results, output: Path, order: Sequence[str]) -> None:
    """The table and both pictures, of what is there so far."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    (output / "learning.md").write_text(table(results, order), encoding="utf-8")
    ordered = {name: results[name] for name in order if name in results}
    for name in ("learning", "curves"):
        figure, axes = pyplot.subplots(figsize=(10, 5))
        if name == "learning":
            draw_bars(ordered, axes)
            axes.tick_params(axis="x", rotation=75)
        else:
            draw_losses(ordered, output, axes)
        figure.tight_layout()
        figure.savefig(output / f"{name}.png", dpi=100)
        pyplot.close(figure)


@click.command()
@click.argument("store")
@click.argument("settings", nargs=-1, metavar="[[TASK:]KEY=VALUE]...")
@click.option("--images", default="", help="The images of the store, for the run on pixels.")
@click.option("--adapt", default="", help="Run of `seit-train tokenadapt`, for SeiT++.")
@click.option("--recipe", default="cpu_tiny", show_default=True)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
@click.option("--only", "chosen", multiple=True, help="These conditions only, by name.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="Print top-1 of every run as JSON.")
def main(
    store: str,
    settings: tuple[str, ...],
    images: str,
    adapt: str,
    recipe: str,
    output: Path,
    chosen: tuple[str, ...],
    seeds: int,
    as_json: bool,
) -> None:
    """Train, compare, draw.

    Example: python -m benchmarks.learning_evidence photos.tokenstore --images photos -o learning
    """
    known = stages(adapt, images)
    judged = [name for name, stage in known.items() if stage.task != "mtm"]
    wrong = [name for name in chosen if name not in judged]
    if wrong:
        raise click.UsageError(f"no condition '{wrong[0]}' here, only: {'; '.join(judged)}")
    setup = Setup(store, images, recipe, settings, output)
    output.mkdir(parents=True, exist_ok=True)
    file, asked = output / "top1.json", (recipe, *settings)
    for seed in range(seeds):
        for name in chosen or judged:
            if seed in finished(file, asked).get(name, {}):
                continue
            train(name, known, setup, seed)
            results = finished(file, asked)
            top1 = list(metrics(run_folder(output, name, seed), "val_top1").values())[-1]
            results.setdefault(name, {})[seed] = top1
            file.write_text(json.dumps({"settings": asked, "top1": results}, indent=1))
            write(results, output, judged)
    results = finished(file, asked)
    click.echo(json.dumps(results) if as_json else table(results, judged), nl=as_json)


if __name__ == "__main__":
    main()
