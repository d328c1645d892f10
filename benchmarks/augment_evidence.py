"""Do token augmentations help? One budget, several seeds, one policy after the other.

    python -m benchmarks.augment_evidence photos.tokenstore -o evidence --json

Every policy trains the classifier of a recipe from scratch, by the command that users type, once
for each seed, all policies of a seed before the next seed. What is done stands in `top1.json` and
is not repeated, so it can be stopped and started again. It writes `evidence.md` with mean and
spread of top-1 at the end of the runs (no checkpoint is chosen by val), `evidence.png`, and
`curves.png` with the losses of training and val. `roundtrip` is slow and is left out unless asked
for.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

Entries = list[dict[str, Any]]
Results = dict[str, dict[int, float]]
CURVES = ("none", "+ ColorAdapt", "+ TokenAdapt")


def policies(weights: str | None) -> dict[str, Entries]:
    """Each policy adds one augmentation to the one before it; `roundtrip` stands beside them."""
    crop: dict[str, Any] = {"random_resized_crop": {"scale": [0.2, 1.0]}}
    noise: dict[str, Any] = {"emb_noise": {"p": 0.5}}
    either = {"one_of": {"p": [0.5, 0.25], "of": [noise, {"color_adapt": {"p": 0.5}}]}}
    adapt = {"token_adapt": {"weights": weights, "mixup": 0.8, "cutmix": 1.0}}
    halves = {"halves": {"first": [adapt], "rest": [crop, {"cutmix": {}}]}}
    return {
        "none": [{"center_crop": {}}],
        "crop": [crop],
        "+ CutMix": [crop, {"cutmix": {}}],
        "+ EDA": [{"eda": {}}, crop, {"cutmix": {}}],
        "+ Emb-Noise": [{"eda": {}}, noise, crop, {"cutmix": {}}],
        "+ ColorAdapt": [{"eda": {}}, either, crop, {"cutmix": {}}],
        "+ TokenAdapt": [{"eda": {}}, either, halves],
        "roundtrip": [{"roundtrip": {}}, {"cutmix": {}}],
    }


def run_folder(output: Path, policy: str, seed: int) -> Path:
    """Where the run of a policy and a seed lies."""
    return output / "".join(c for c in policy.lower() if c.isalnum()) / f"seed{seed}"


def metrics(run: Path, name: str) -> dict[float, float]:
    """What a run logged under a name, by epoch."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["epoch"]: line[name] for line in lines if name in line}


def top1(store: str, run: Path, entries: Entries, seed: int, settings: tuple[str, ...]) -> float:
    """Train one run, or go on with it, and give top-1 on val at its end."""
    augment = f"augment={json.dumps(entries)}"
    words = ["classify", store, "-o", str(run), "--resume", f"seed={seed}", augment, *settings]
    command = [sys.executable, "-m", "seit_train", *words]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return list(metrics(run, "val_top1").values())[-1]


def table(results: Results) -> str:
    """Markdown: mean and standard deviation of top-1 in percent."""
    lines = ["| policy | top-1, mean | deviation | each seed |", "|---|---|---|---|"]
    for name, by_seed in results.items():
        values = [100 * value for value in by_seed.values()]
        spread = f"{statistics.stdev(values):.1f}" if len(values) > 1 else "-"
        each = ", ".join(f"{value:.1f}" for value in values)
        lines.append(f"| {name} | {statistics.mean(values):.1f} | {spread} | {each} |")
    return "\n".join(lines) + "\n"


def draw_bars(results: Results, axes: Any) -> None:
    """Each seed a point, each policy's mean a bar."""
    axes.bar(
        list(results), [100 * statistics.mean(v.values()) for v in results.values()], fc="#9ab"
    )
    for place, values in enumerate(results.values()):
        axes.plot([place] * len(values), [100 * v for v in values.values()], "k.")
    axes.set_ylabel("top-1 on val, %")
    axes.tick_params(axis="x", rotation=25)


def draw_curves(results: Results, output: Path, axes: Any) -> None:
    """Loss of training (with its augmentations, dashed) and on val (line), mean of the seeds."""
    for colour, name in enumerate(name for name in CURVES if name in results):
        for kind, style in (("loss", "--"), ("val_loss", "-")):
            runs = [metrics(run_folder(output, name, seed), kind) for seed in results[name]]
            means = [statistics.mean(run[epoch] for run in runs) for epoch in runs[0]]
            label = f"{name}, {'training' if kind == 'loss' else 'val'}"
            axes.plot(list(runs[0]), means, f"C{colour}{style}", label=label)
    axes.set_xlabel("epoch")
    axes.locator_params(axis="x", integer=True)
    axes.set_ylabel("cross-entropy")
    axes.legend(fontsize=8)


def write(results: Results, output: Path) -> None:
    """The table and both pictures, of what is there so far."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    (output / "evidence.md").write_text(table(results), encoding="utf-8")
    for name in ("evidence", "curves"):
        figure, axes = pyplot.subplots(figsize=(8, 4))
        if name == "evidence":
            draw_bars(results, axes)
        else:
            draw_curves(results, output, axes)
        figure.tight_layout()
        figure.savefig(output / f"{name}.png", dpi=100)
        pyplot.close(figure)


def finished(file: Path, settings: tuple[str, ...]) -> Results:
    """Top-1 by policy and seed of what earlier calls have done.

    Raises:
        UsageError: they had another budget.
    """
    if not file.exists():
        return {}
    kept = json.loads(file.read_text())
    if kept["settings"] != list(settings):
        raise click.UsageError(f"'{file}' was made with {kept['settings']}; choose another -o")
    return {name: {int(s): v for s, v in runs.items()} for name, runs in kept["top1"].items()}


@click.command()
@click.argument("store")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--adapt", help="Run of `seit-train tokenadapt`; by default what comes with it.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
@click.option("--policy", "chosen", multiple=True, help="These only; all but roundtrip by default.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--json", "as_json", is_flag=True, help="Print top-1 of every run as JSON.")
def main(
    store: str,
    settings: tuple[str, ...],
    adapt: str | None,
    output: Path,
    chosen: tuple[str, ...],
    seeds: int,
    as_json: bool,
) -> None:
    """Train, compare, draw.

    Example: python -m benchmarks.augment_evidence photos.tokenstore -o evidence epochs=20
    """
    known = policies(adapt)
    names = chosen or [name for name in known if name != "roundtrip"]
    output.mkdir(parents=True, exist_ok=True)
    file = output / "top1.json"
    for seed in range(seeds):
        for name in names:
            results = finished(file, settings)
            if seed in results.get(name, {}):
                continue
            value = top1(store, run_folder(output, name, seed), known[name], seed, settings)
            results = finished(file, settings)
            results.setdefault(name, {})[seed] = value
            results = {name: results[name] for name in known if name in results}
            file.write_text(json.dumps({"settings": settings, "top1": results}, indent=1))
            write(results, output)
    results = finished(file, settings)
    click.echo(json.dumps(results) if as_json else table(results), nl=as_json)


if __name__ == "__main__":
    main()
