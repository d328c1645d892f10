"""Do token augmentations help? One budget, several seeds, one policy after the other.

    python -m benchmarks.augment_evidence photos.tokenstore --adapt RUN -o evidence --json

Every policy trains the classifier of a recipe from scratch, by the command that users type, once
for each seed; runs that are there already are not repeated, so it can be stopped and started again.
It writes `evidence.md` with mean and spread of top-1, and `evidence.png`. `roundtrip` is slow and
is left out unless asked for.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

Entries = list[dict[str, Any]]


def policies(weights: str) -> dict[str, Entries]:
    """Each policy adds one augmentation to the one before it."""
    crop: dict[str, Any] = {"random_resized_crop": {"scale": [0.2, 1.0]}}
    noise: dict[str, Any] = {"emb_noise": {"p": 0.5}}
    either = {"one_of": {"p": [0.5, 0.25], "of": [noise, {"color_adapt": {"p": 0.5}}]}}
    adapt = {"token_adapt": {"weights": weights, "mixup": 0.8, "cutmix": 1.0}}
    halves = {"halves": {"first": [adapt], "rest": [crop, {"cutmix": {}}]}}
    return {
        "none": [{"center_crop": {}}],
        "CutMix": [crop, {"cutmix": {}}],
        "+ EDA": [{"eda": {}}, crop, {"cutmix": {}}],
        "+ Emb-Noise": [{"eda": {}}, noise, crop, {"cutmix": {}}],
        "+ ColorAdapt": [{"eda": {}}, either, crop, {"cutmix": {}}],
        "+ TokenAdapt": [{"eda": {}}, either, halves],
        "roundtrip": [{"roundtrip": {}}, {"cutmix": {}}],
    }


def top1(store: str, run: Path, entries: Entries, seed: int, settings: tuple[str, ...]) -> float:
    """Train one run, or go on with it, and give the best top-1 on val."""
    augment = f"augment={json.dumps(entries)}"
    words = ["classify", store, "-o", str(run), "--resume", f"seed={seed}", augment, *settings]
    command = [sys.executable, "-m", "seit_train", *words]
    subprocess.run(command, check=True, stdout=sys.stderr)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return max(line["val_top1"] for line in lines if "val_top1" in line)


def table(results: dict[str, list[float]]) -> str:
    """Markdown: mean and standard deviation of top-1 in percent."""
    lines = ["| policy | top-1, mean | deviation | seeds |", "|---|---|---|---|"]
    for name, values in results.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        lines.append(
            f"| {name} | {100 * statistics.mean(values):.1f} | {100 * spread:.1f} | {len(values)} |"
        )
    return "\n".join(lines) + "\n"


def plot(results: dict[str, list[float]], file: Path) -> None:
    """Each seed a point, each policy's mean a bar."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4))
    axes.bar(list(results), [100 * statistics.mean(v) for v in results.values()], color="#9ab")
    for place, values in enumerate(results.values()):
        axes.plot([place] * len(values), [100 * v for v in values], "k.")
    axes.set_ylabel("top-1 on val, %")
    axes.tick_params(axis="x", rotation=20)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


@click.command()
@click.argument("store")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--adapt", required=True, help="Run of `seit-train tokenadapt` for its tokenizer.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
@click.option("--policy", "chosen", multiple=True, help="These only; all but roundtrip by default.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="Print top-1 of every run as JSON.")
def main(
    store: str,
    settings: tuple[str, ...],
    adapt: str,
    output: Path,
    chosen: tuple[str, ...],
    seeds: int,
    as_json: bool,
) -> None:
    """Train, compare, draw.

    Example: python -m benchmarks.augment_evidence photos.tokenstore --adapt runs/adapt -o evidence
    """
    known = policies(adapt)
    results: dict[str, list[float]] = {}
    for name in chosen or [name for name in known if name != "roundtrip"]:
        place = output / "".join(c for c in name.lower() if c.isalnum())
        results[name] = [
            top1(store, place / f"seed{seed}", known[name], seed, settings) for seed in range(seeds)
        ]
        (output / "evidence.md").write_text(table(results), encoding="utf-8")
        plot(results, output / "evidence.png")
    click.echo(json.dumps(results) if as_json else table(results), nl=as_json)


if __name__ == "__main__":
    main()
