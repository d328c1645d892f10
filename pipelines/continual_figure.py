"""The figure of continual learning, from the folders of its runs: a table, OUT.json and OUT.png.

    python -m pipelines.continual_figure runs/tokens-5-30000-0 runs/pixels-5-30000-0 -o continual

Reads what a run writes down, config.json and metrics.jsonl, and trains nothing. Of each run: the
accuracy over all classes seen so far after each task, of which the last is drawn over the bytes of
the memory; and the forgetting, the mean over all tasks but the last one of what is left of their
best accuracy at the end (Chaudhry et al., arXiv 1801.10112, section 3).
"""

import json
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from pipelines.drawing import pyplot

COLOURS = {"tokens": "tab:blue", "pixels": "tab:orange"}
STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Learnt:
    """One run.

    Attributes:
        kind: tokens or pixels.
        tasks: how many.
        memory: its bytes.
        passes: over the images of each task.
        seed: of the run.
        after_each: accuracy over the classes seen so far, after each task.
        forgetting: of all tasks but the last; 0 with one task.
    """

    kind: str
    tasks: int
    memory: int
    passes: int
    seed: int
    after_each: tuple[float, ...]
    forgetting: float


def read_run(folder: Path) -> Learnt:
    """What a run learnt and forgot.

    Raises:
        click.ClickException: the run has not ended, or knows no tasks.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    replay, tasks = config["data"].get("replay"), round(config["epochs"] or 0)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    told = [line for line in map(json.loads, lines) if "val_top1/task 1" in line]
    if replay is None or len(told) != tasks:
        raise click.ClickException(
            f"'{folder}' has {len(told)} of {tasks} tasks behind it. Let it end with --resume."
        )
    shares = [[line[f"val_top1/task {n}"] for n in range(1, tasks + 1)] for line in told]
    lost = [max(row[n] for row in shares) - shares[-1][n] for n in range(tasks - 1)]
    return Learnt(
        kind="pixels" if config["task"] == "pixels" else "tokens",
        tasks=tasks,
        memory=replay["memory"],
        passes=replay["passes"],
        seed=config["seed"],
        after_each=tuple(sum(row[:seen]) / seen for seen, row in enumerate(shares, 1)),
        forgetting=sum(lost) / max(1, len(lost)),
    )


def draw(runs: list[Learnt], file: Path) -> None:
    """Accuracy after the last task and forgetting, over the bytes of the memory; means of seeds."""
    plots = pyplot()
    figure, axes = plots.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    counts = sorted({one.tasks for one in runs})
    for kind, colour in COLOURS.items():
        for style, tasks in zip(STYLES, counts, strict=False):
            finals, losses = defaultdict(list), defaultdict(list)
            for one in runs:
                if (one.kind, one.tasks) == (kind, tasks):
                    finals[one.memory].append(one.after_each[-1])
                    losses[one.memory].append(one.forgetting)
            for axis, values in zip(axes, (finals, losses), strict=True):
                places = sorted(values)
                means = [100 * sum(values[place]) / len(values[place]) for place in places]
                label = f"{kind}, {tasks} tasks"
                axis.plot(places, means, style, color=colour, marker="o", label=label)
    for axis, title in zip(axes, ("accuracy over all classes", "forgetting"), strict=True):
        axis.set(xscale="log", xlabel="bytes of memory", ylabel=f"{title} (%)", ylim=(0, None))
        rooms = sorted({one.memory for one in runs})
        axis.set_xticks(rooms, labels=[f"{room:,}" for room in rooms])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(file, dpi=120)
    plots.close(figure)


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="OUT")
def main(runs: tuple[Path, ...], output: Path) -> None:
    """Compare continual RUNs.

    Example: python -m pipelines.continual_figure runs/tokens-5-30000-0 -o continual
    """
    learnt = sorted(map(read_run, runs), key=lambda one: (one.tasks, one.memory, one.kind))
    lines = json.dumps([asdict(one) for one in learnt], indent=1)
    output.with_suffix(".json").write_text(f"{lines}\n", encoding="utf-8")
    click.echo("tasks  memory     from    seed  accuracy  forgetting  after each task")
    for one in learnt:
        each = " ".join(f"{100 * share:.1f}" for share in one.after_each)
        click.echo(
            f"{one.tasks:>5}  {one.memory:>9}  {one.kind}  {one.seed:>4}  "
            f"{100 * one.after_each[-1]:>7.1f}%  {100 * one.forgetting:>9.1f}%  {each}"
        )
    draw(learnt, output.with_suffix(".png"))


if __name__ == "__main__":
    main()
