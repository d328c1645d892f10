"""A user's own folder of images, laid out with train and val for the demo.

Folders with a `val` split are used as they are. Class folders and plain folders become a folder of
links in which a seeded share of each class is `val`; no image is copied, opened or changed.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipelines.prepare.links import LaidOut, link

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
CLASS_FILE = "classes.json"  # the order of the classes, where a corpus declares one
VAL_SHARE = 0.15
MOST_IMAGES = 4000


class NoImages(Exception):
    """The folder holds no image that the demo could use."""


def with_val(images: Path, folder: Path, seed: int = 0, most: int = MOST_IMAGES) -> Path:
    """The corpus to build from: `images` itself if it has a val split, else links in `folder`.

    Args:
        images: class folders, a folder with train/, or a plain folder of images.
        folder: of links, where they are needed.
        seed: of the choice of val, and of the images where there are too many.
        most: images to use at the most, so that the demo stays short.

    Raises:
        NoImages: there are none, or too few to set any aside.
        OtherLayout: `folder` has links to other images, or is not ours.
    """
    if images.is_dir() and (images / "val").is_dir():
        return images
    link(parted(images, seed, most), folder)
    return folder


def parted(images: Path, seed: int, most: int | None = None) -> Iterator[LaidOut]:
    """Links to the images of train and val, and to the list of classes if there is one.

    Raises:
        NoImages: there are none, or too few to set any aside.
    """
    root, chosen = chosen_images(images, seed, most)
    for split, files in chosen.items():
        yield from (LaidOut(f"{split}/{file.relative_to(root)}", file) for file in files)
    if (images / CLASS_FILE).is_file():
        yield LaidOut(CLASS_FILE, images / CLASS_FILE)


def chosen_images(
    images: Path, seed: int, most: int | None = None
) -> tuple[Path, dict[str, list[Path]]]:
    """The folder that the classes lie in, and the images of train and val in it.

    Args:
        images: class folders, a folder with train/, or a plain folder of images.
        seed: of the choice.
        most: images to choose; None means all.

    Raises:
        NoImages: there are none, or too few to set any aside.
    """
    if not images.is_dir():
        raise NoImages(f"'{images}' is no folder. Give one that holds images.")
    root = images / "train" if (images / "train").is_dir() else images
    chosen = _chosen(_by_class(root), np.random.default_rng(seed), most)
    if not chosen["val"]:
        raise NoImages(f"'{root}' has too few images to learn from: no class has seven of them.")
    return root, chosen


class Layout(NamedTuple):
    """How many images would be trained on, whether they have classes, and a val of their own."""

    images: int
    labelled: bool
    has_val: bool


def layout_of(images: Path, seed: int = 0, most: int = MOST_IMAGES) -> Layout:
    """What `with_val` would find, without making anything.

    Raises:
        NoImages: there are none, or too few to set any aside.
    """
    if has_val := (images / "val").is_dir():
        classes = _by_class(images / "train")
        return Layout(sum(map(len, classes.values())), "" not in classes, has_val)
    root, chosen = chosen_images(images, seed, most)
    return Layout(len(chosen["train"]), "" not in _by_class(root), has_val)


def original(corpus: Path, split: str, key: str) -> Path:
    """The image file behind a sample's key."""
    beside = (corpus / split / key).parent
    found = [path for path in _images(beside) if path.stem == Path(key).name]
    return found[0]


def _images(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.suffix.lower() in EXTENSIONS)


def _by_class(root: Path) -> dict[str, list[Path]]:
    """Image files by the first folder below `root`; all under "" if any lies directly in it."""
    files = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in EXTENSIONS]
    names = [path.relative_to(root).parts for path in files]
    labelled = all(len(parts) > 1 for parts in names)
    classes: dict[str, list[Path]] = {}
    for path, parts in zip(files, names, strict=True):
        classes.setdefault(parts[0] if labelled else "", []).append(path)
    return classes


def _chosen(
    classes: Mapping[str, Sequence[Path]], rng: np.random.Generator, most: int | None
) -> dict[str, list[Path]]:
    """A seeded share of each class for val, the rest for train, `most` in all (or all)."""
    share = 1.0 if most is None else min(1.0, most / max(1, sum(map(len, classes.values()))))
    splits: dict[str, list[Path]] = {"train": [], "val": []}
    for _, files in sorted(classes.items()):
        order = rng.permutation(len(files))[: max(2, int(len(files) * share))]
        held_out = int(len(order) * VAL_SHARE)
        splits["val"] += [files[i] for i in order[:held_out]]
        splits["train"] += [files[i] for i in order[held_out:]]
    return splits
