"""Class maps: which classes of a run a folder of pictures stands for.

Folders match the run's classes by name, and a file says the rest: other names, several classes
behind one folder (ObjectNet), several folders of one class, folders to leave out. Where folders
stand for some of the classes only, as those of ImageNet-R do, the answer is sought among these.
Nothing is matched by likeness, and a folder that nobody knows is an error.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenstore.errors import UsageError

OTHERS = "*"  # an entry of this name stands for every folder that is not named

ClassMap = Mapping[str, tuple[str, ...] | None]


@dataclass(frozen=True)
class Targets:
    """What pictures are labelled by: first the classes of the run, then sets of them.

    Attributes:
        names: what each is called.
        members: labels of the run that are right answers, one for a class, several for a set.
        among: labels that can be answered, rising.
    """

    names: tuple[str, ...]
    members: tuple[tuple[int, ...], ...]
    among: tuple[int, ...]

    @classmethod
    def of(cls, classes: Sequence[str]) -> "Targets":
        """The classes of a run, all of which can be answered."""
        labels = range(len(classes))
        return cls(tuple(classes), tuple((label,) for label in labels), tuple(labels))

    def refuse_sets(self) -> None:
        """Refuse pictures with several right answers.

        Raises:
            UsageError: the class map makes such pictures.
        """
        sets = [
            name for name, members in zip(self.names, self.members, strict=True) if len(members) > 1
        ]
        if sets:
            raise UsageError(
                f"an attack needs one class for a folder, and the class map names several for "
                f"'{sets[0]}'"
            )


@dataclass(frozen=True)
class Scope:
    """Which pictures are looked at, and how their folders and the run's classes are matched.

    Attributes:
        class_map: file that says what folders stand for; None: names say it.
        all_classes: whether every class of the run can be answered, also those without a folder.
        sample: how many pictures, drawn by `seed`; None: all of them.
        seed: of that draw.
    """

    class_map: Path | None = None
    all_classes: bool = False
    sample: int | None = None
    seed: int = 0


BY_NAME = Scope()


def match_folders(
    folders: Sequence[str], classes: Sequence[str], scope: Scope
) -> tuple[dict[str, int | None], Targets]:
    """The number of each folder's target, None for those to leave out, and the targets.

    Raises:
        UsageError: a folder that stands for nothing, or a map that names an unknown class.
    """
    known = {name: label for label, name in enumerate(classes)}
    given = {} if scope.class_map is None else read_class_map(scope.class_map)
    names = [*classes]
    members: list[tuple[int, ...]] = [(label,) for label in range(len(classes))]
    numbers: dict[str, int | None] = {}
    for folder in folders:
        meant = _meaning(folder, given, known)
        if meant is None or len(meant) == 1:
            numbers[folder] = None if meant is None else known[meant[0]]
        else:
            numbers[folder] = len(names)
            names.append(folder)
            members.append(tuple(sorted(known[name] for name in meant)))
    used = [members[number] for number in numbers.values() if number is not None]
    among = sorted({label for labels in used for label in labels})
    # Among a single class every answer would be right.
    if scope.all_classes or len(among) < 2:
        among = list(range(len(classes)))
    return numbers, Targets(tuple(names), tuple(members), tuple(among))


def _meaning(folder: str, given: ClassMap, known: Mapping[str, int]) -> tuple[str, ...] | None:
    """The classes of a folder: as the map says, by its own name, or as all others."""
    if folder in given:
        meant = given[folder]
    elif folder in known:
        return (folder,)
    elif OTHERS in given:
        meant = given[OTHERS]
    else:
        raise UsageError(
            f"class folder '{folder}' is none of the classes of the run "
            f"({', '.join([*known][:5])}, ...). Say what it stands for with --class-map FILE, or "
            "null there to leave it out."
        )
    for name in meant or ():
        if name not in known:
            raise UsageError(
                f"the class map says '{name}' for folder '{folder}', which is none of the classes "
                f"of the run ({', '.join([*known][:5])}, ...)"
            )
    return meant


def read_class_map(file: Path) -> ClassMap:
    """What a class map says, by folder.

    JSON is `{"folder": "class"}` with a list for several classes and null to leave a folder out;
    CSV has the columns folder and class, a line for each class, an empty one to leave it out.

    Raises:
        UsageError: the file cannot be read or is of neither form.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        content = _from_csv(text) if file.suffix.lower() == ".csv" else json.loads(text)
        return {folder: _classes(meant) for folder, meant in content.items()}
    except OSError as error:
        raise UsageError(f"class map '{file}' cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f'class map \'{file}\' is neither JSON such as {{"folder": "class", "other": ["a", '
            '"b"], "third": null}} nor CSV with the columns folder and class'
        ) from error


def _from_csv(text: str) -> dict[str, list[str] | None]:
    found: dict[str, list[str] | None] = {}
    for row in csv.DictReader(io.StringIO(text)):
        folder, name = row["folder"], row["class"]
        before = found.setdefault(folder, [] if name else None)
        if bool(name) != (before is not None):
            raise ValueError(folder)  # left out and named in one file
        if before is not None:
            before.append(name)
    return found


def _classes(meant: Any) -> tuple[str, ...] | None:
    if meant is None:
        return None
    names = (meant,) if isinstance(meant, str) else tuple(meant)
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(meant)
    return tuple(dict.fromkeys(names))
