"""Paths of images that lie in no folder of this machine: splits and classes from names alone.

What archives and object storage share. The rules are those of a local folder (`image_folder`):
folders train, val and test are splits, the first folder inside a split is the class. One folder
around everything, as archives often have it, is taken off.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tokenstore.errors import SourceError
from tokenstore.sources.base import Item, printable
from tokenstore.sources.files import SPLITS

Labels = Mapping[str, int]


class Named(NamedTuple):
    """An image: its path in the layout, and what will be its item."""

    path: str
    item: Item
    label: str | int | None = None  # where something else than the folder tells: a name, or number


def into_splits(images: Sequence[Named]) -> dict[str, list[Named]]:
    """Images by split, their paths now inside of it; without split folders all is train."""
    images = _without_outer(images)
    tops = {image.path.partition("/")[0] for image in images if "/" in image.path}
    loose = any("/" not in image.path for image in images)
    if loose or not tops or not tops <= set(SPLITS):
        return {"train": list(images)}
    found: dict[str, list[Named]] = {split: [] for split in SPLITS if split in tops}
    for image in images:
        split, _, inside = image.path.partition("/")
        found[split].append(image._replace(path=inside))
    return found


def _without_outer(images: Sequence[Named]) -> Sequence[Named]:
    """`photos/train/cat/1.jpg -> train/cat/1.jpg`, if all lie in photos/ and in folders of it."""
    outer = {image.path.partition("/")[0] for image in images}
    deep = all(image.path.count("/") >= 2 for image in images)
    if len(outer) == 1 and deep and not outer & set(SPLITS):
        return [image._replace(path=image.path.partition("/")[2]) for image in images]
    return images


def labelled(
    splits: Mapping[str, Sequence[Named]], declared: Sequence[str] | None, where: str
) -> tuple[dict[str, list[Item]], tuple[str, ...] | None]:
    """Items with keys and labels, by split, and the names of the classes.

    A label that an image brings along counts; else its folder, where all images of the split lie in
    folders.

    Raises:
        SourceError: a class that is not declared, or labels for some images of a split only.
    """
    named: dict[str, list[tuple[Named, str | int | None]]] = {}
    for split, images in splits.items():
        brought = [image.label is not None for image in images]
        if any(brought) and not all(brought):
            lacking = images[brought.index(False)].item.path
            raise SourceError(
                f"some images of split '{split}' in '{where}' have a label, and "
                f"'{printable(lacking)}' has none. Label all of them or none."
            )
        folders = not any(brought) and all("/" in image.path for image in images)
        named[split] = [
            (image, image.path.partition("/")[0] if folders else image.label) for image in images
        ]
    classes = _classes([name for some in named.values() for _, name in some], declared, where)
    numbers = {name: number for number, name in enumerate(classes or ())}
    return {
        split: [_item(image, name, numbers) for image, name in some]
        for split, some in named.items()
    }, classes


def _item(image: Named, name: str | int | None, numbers: Labels) -> Item:
    label = numbers[printable(name)] if isinstance(name, str) else name
    return image.item._replace(label=label)


def _classes(
    names: Sequence[str | int | None], declared: Sequence[str] | None, where: str
) -> tuple[str, ...] | None:
    """Names in label order: those declared, else the sorted names, else the numbers themselves."""
    words = {printable(name) for name in names if isinstance(name, str)}
    numbers = [name for name in names if isinstance(name, int)]
    if not words and not numbers:
        return None
    if words and numbers:
        raise SourceError(
            f"labels in '{where}' are partly numbers ({numbers[0]}) and partly names "
            f"({min(words)}). Use one of the two."
        )
    known = tuple(declared) if declared is not None else None
    wrong = [n for n in numbers if n < 0 or (known is not None and n >= len(known))]
    if wrong:
        most = "0 and above" if known is None else f"0 to {len(known) - 1}"
        raise SourceError(f"a label in '{where}' is {wrong[0]}, expected {most}.")
    if known is None:
        return tuple(sorted(words)) if words else tuple(map(str, range(max(numbers) + 1)))
    unknown = sorted(words.difference(known))
    if unknown:
        raise SourceError(
            f"class '{unknown[0]}' in '{where}' is none of the {len(known)} classes declared "
            f"({', '.join(known[:5])}, ...). Correct the class file."
        )
    return known
