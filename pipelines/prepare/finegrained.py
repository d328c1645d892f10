"""Fine-grained sets as `images/train/CLASS/` and `images/val/CLASS/`, by their published lists.

    flowers   jpg/image_00001.jpg, imagelabels.mat, setid.mat; train is their train and val, val is
              their test
    cars      cars_train/00001.jpg, cars_test/, devkit/cars_train_annos.mat,
              cars_test_annos_withlabels.mat (in the folder or in devkit/)
    inat18    train_val2018/..., train2018.json, val2018.json
    inat19    train_val2019/..., train2019.json, val2019.json

A class is a folder of its number with leading zeros, so that the order of the names is that of the
numbers.

    python -m pipelines.prepare.finegrained flowers FLOWERS -o images
"""

import json
from collections.abc import Iterator
from pathlib import Path

import click

from pipelines.prepare.links import LaidOut, OtherLayout, prepare
from pipelines.prepare.matlab import read_matlab


def _file(folder: Path, *names: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise OtherLayout(f"'{folder}' has no {' nor '.join(names)}")


def flowers(folder: Path) -> Iterator[LaidOut]:
    """Oxford Flowers 102."""
    labels = read_matlab(_file(folder, "imagelabels.mat"))["labels"]
    sets = read_matlab(_file(folder, "setid.mat"))
    for split, parts in (("train", ("trnid", "valid")), ("val", ("tstid",))):
        for number in sorted(int(n) for part in parts for n in sets[part]):
            name = f"image_{number:05d}.jpg"
            yield LaidOut(f"{split}/{int(labels[number - 1]):03d}/{name}", folder / "jpg" / name)


def cars(folder: Path) -> Iterator[LaidOut]:
    """Stanford Cars."""
    test = "cars_test_annos_withlabels.mat"
    lists = {
        "train": _file(folder, "devkit/cars_train_annos.mat"),
        "val": _file(folder, test, f"devkit/{test}"),
    }
    for split, images in (("train", "cars_train"), ("val", "cars_test")):
        for row in read_matlab(lists[split])["annotations"]:
            name = str(row["fname"])
            yield LaidOut(f"{split}/{int(row['class']):03d}/{name}", folder / images / name)


def _inaturalist(folder: Path, year: int) -> Iterator[LaidOut]:
    for split in ("train", "val"):
        described = json.loads(_file(folder, f"{split}{year}.json").read_text(encoding="utf-8"))
        classes = {row["image_id"]: row["category_id"] for row in described["annotations"]}
        for image in described["images"]:
            file = folder / image["file_name"]
            if not file.resolve().is_relative_to(folder.resolve()):
                raise OtherLayout(f"'{image['file_name']}' in {split}{year}.json leaves '{folder}'")
            yield LaidOut(f"{split}/{classes[image['id']]:05d}/{file.name}", file)


def inat18(folder: Path) -> Iterator[LaidOut]:
    """The set of the year 2018, iNaturalist."""
    return _inaturalist(folder, 2018)


def inat19(folder: Path) -> Iterator[LaidOut]:
    """The set of the year 2019, iNaturalist."""
    return _inaturalist(folder, 2019)


SETS = {"flowers": flowers, "cars": cars, "inat18": inat18, "inat19": inat19}


@click.command()
@click.argument("name", metavar="SET", type=click.Choice(sorted(SETS)))
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path))
def main(name: str, folder: Path, output: Path) -> None:
    """Make a folder of links to the images of SET in FOLDER."""
    prepare(SETS[name](folder), output)


if __name__ == "__main__":
    main()
