"""Scores of consistency for one's own pictures: how surely they are known without being learnt.

    python -m benchmarks.consistency photos.tokenstore -o scores --pairs 2 steps=356

In the manner of C-scores (Jiang et al., ICML 2021, arXiv 2002.03206), in small: the train split is
halved at random, class by class, a classifier of the tokens learns each half by the command that
users type, and says of the other half's images how probable their class is. The mean over several
halvings is the score. It writes `scores.csv`, for `data.scores` and pipelines.storage_tradeoff.
Published C-scores come from very many models on shares from 10 to 90%; a few halvings tell only
typical images from odd ones.
"""

import csv
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import torch

import tokenstore
from seit_train.data import iterate
from seit_train.evaluate.trained import load_trained
from tokenstore.subset import samples_of_share


def write_scores(file: Path, keys: list[str], scores: np.ndarray) -> None:
    """A CSV file with the columns key and score."""
    with file.open("w", encoding="utf-8", newline="") as lines:
        rows = csv.writer(lines)
        rows.writerow(("key", "score"))
        rows.writerows(zip(keys, map(float, scores), strict=True))


def learn(store: str, order: Path, run: Path, settings: tuple[str, ...]) -> None:
    """Train on the half with the highest numbers in a file, or go on with that."""
    half = (f"data.scores={order}", "data.fraction=0.5")
    words = ["classify", store, "-o", str(run), "--resume", *settings, *half]
    subprocess.run([sys.executable, "-m", "seit_train", *words], check=True, stdout=sys.stderr)


def confidence(store: str, run: Path) -> np.ndarray:
    """Probability of the right class, of every image of train."""
    trained, train = load_trained(run), tokenstore.open(store)["train"]
    found = np.zeros(len(train))
    with trained.computing():
        for batch in iterate(trained.task.evaluation_batches(train, trained.world)):
            likely = trained.task.logits(trained.model, batch).softmax(dim=1)
            right = likely[torch.arange(len(likely)), batch.labels]
            found[batch.index[batch.valid].numpy()] = right[batch.valid].numpy()
    return found


@click.command()
@click.argument("store")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
@click.option("--pairs", default=2, show_default=True, type=click.IntRange(min=1))
def main(store: str, settings: tuple[str, ...], output: Path, pairs: int) -> None:
    """Score every image of train.

    Example: python -m benchmarks.consistency photos.tokenstore -o scores
    """
    output.mkdir(parents=True, exist_ok=True)
    train = tokenstore.open(store)["train"]
    keys = train.keys(np.arange(len(train)))
    assert keys is not None, "images are scored by key"
    total, times = np.zeros(len(keys)), np.zeros(len(keys))
    for pair in range(pairs):
        order = np.random.default_rng(pair).permutation(len(keys)).astype(float)
        for half, sign in (("a", 1), ("b", -1)):
            run, file = output / f"{pair}{half}", (output / f"{pair}{half}.csv").absolute()
            write_scores(file, keys, sign * order)
            learn(store, file, run, settings)
            learnt = samples_of_share(train, 0.5, 0, dict(zip(keys, sign * order, strict=True)))
            others = np.setdiff1d(np.arange(len(keys)), learnt)
            total[others] += confidence(store, run)[others]
            times[others] += 1
    scores = np.where(times > 0, total / np.maximum(times, 1), np.nan)
    missing = int(np.isnan(scores).sum())
    scores = np.where(np.isnan(scores), np.nanmedian(scores), scores)
    write_scores(output / "scores.csv", keys, scores)
    click.echo(
        f"{len(keys):,} scores in {output / 'scores.csv'}, mean {scores.mean():.3f}; "
        f"{missing} images that no half left out have the median"
    )


if __name__ == "__main__":
    main()
