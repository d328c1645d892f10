"""ImageNet-1k as `images/train/SYNSET/` and `images/val/SYNSET/`, whatever way it was unpacked.

    IMAGENET/train/n01440764/*.JPEG                 or ILSVRC/Data/CLS-LOC/train/
    IMAGENET/val/ILSVRC2012_val_00000001.JPEG       flat, as published, or in synset folders already

The synset of a flat validation image comes from the devkit: line i of
ILSVRC2012_validation_ground_truth.txt is the ILSVRC2012_ID of image i, and meta.mat gives that ID
its WNID. (IDs are *not* the places of the sorted synsets.) Where there is no devkit, from
LOC_val_solution.csv, which lies beside the files in Kaggle's form.

    python -m pipelines.prepare.imagenet IMAGENET -o images
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import click

from pipelines.prepare.links import LaidOut, OtherLayout, prepare
from pipelines.prepare.matlab import read_matlab

TRUTH = "ILSVRC2012_validation_ground_truth.txt"
KAGGLE = "LOC_val_solution.csv"
DATA = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")


def synset_by_image(imagenet: Path) -> dict[str, str]:
    """Name without suffix of each validation image -> its synset.

    Raises:
        OtherLayout: there is no devkit and no Kaggle table, or they do not fit each other.
    """
    truth = next(iter(sorted(imagenet.glob(f"*/data/{TRUTH}"))), None)
    if truth is not None:
        synsets = read_matlab(truth.with_name("meta.mat"))["synsets"]
        names = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        ids = [int(line) for line in truth.read_text(encoding="utf-8").split()]
        if unknown := sorted(set(ids) - set(names)):
            raise OtherLayout(f"meta.mat beside '{truth}' has no synset with ID {unknown[0]}")
        return {f"ILSVRC2012_val_{n:08d}": names[i] for n, i in enumerate(ids, 1)}
    table = next((p for p in (imagenet / KAGGLE, imagenet.parent / KAGGLE) if p.is_file()), None)
    if table is None:
        raise OtherLayout(
            f"'{imagenet}' has validation images without synset folders, and neither "
            f"ILSVRC2012_devkit_t12/data/{TRUTH} nor {KAGGLE}. Unpack the devkit there."
        )
    with table.open(encoding="utf-8", newline="") as rows:
        return {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(rows)}


def _split(imagenet: Path, split: str) -> Path:
    for data in DATA:
        if (imagenet / data / split).is_dir():
            return imagenet / data / split
    raise OtherLayout(f"'{imagenet}' has no folder {split}/, nor ILSVRC/Data/CLS-LOC/{split}/")


def laid_out(imagenet: Path, only: frozenset[str] | None = None) -> Iterator[LaidOut]:
    """Links to the synset folders of train, and to folders or images of val.

    Raises:
        OtherLayout: see `synset_by_image`; or a synset of `only` is not there.
    """
    train, val = _split(imagenet, "train"), _split(imagenet, "val")
    synsets = {path.name for path in train.iterdir() if path.is_dir()}
    if absent := sorted((only or set()) - synsets):
        raise OtherLayout(f"'{train}' has no folder {absent[0]}, which the list of synsets names")
    wanted = sorted(only or synsets)
    for synset in wanted:
        yield LaidOut(f"train/{synset}", train / synset)
    flat = sorted(path for path in val.iterdir() if path.suffix.lower() in (".jpeg", ".jpg"))
    if not flat:
        for synset in wanted:
            yield LaidOut(f"val/{synset}", val / synset)
        return
    truth = synset_by_image(imagenet)
    for path in flat:
        if path.stem not in truth:
            raise OtherLayout(f"the ground truth says nothing of '{path}'")
        if truth[path.stem] in wanted:
            yield LaidOut(f"val/{truth[path.stem]}/{path.name}", path)


@click.command()
@click.argument("imagenet", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--synsets", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
def main(imagenet: Path, synsets: Path | None, output: Path) -> None:
    """Make a folder of links; --synsets FILE takes those only, the first word of each line."""
    only = None
    if synsets:
        lines = synsets.read_text(encoding="utf-8").splitlines()
        only = frozenset(line.split()[0] for line in lines if line.strip())
    prepare(laid_out(imagenet, only), output)


if __name__ == "__main__":
    main()
