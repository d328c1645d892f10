"""Run: the folder that a training writes, and what it remembers of the store it trained on.

    RUN/config.json             the complete configuration
        store.json              identity of the store: tokenizer, preprocessing, grid, classes, ...
        vocabulary.safetensors  as the store has it: ids, counts and codebook in rank order; a run
                                on pictures has none
        environment.json        versions, device, command
        footprint.json          images that it trains on, and the bytes that keep them
        metrics.jsonl           a line an interval; the same for TensorBoard in tensorboard/
        checkpoints/last  best  see checkpoint.py

With these a run can be evaluated on pictures when its store is long gone. Training writes the
folder, evaluation and `--init` read it; this file does neither.
"""

import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from seit_train.augment.base import Codes
from seit_train.checkpoint import has_checkpoint, partial_name, replace_file
from seit_train.config import RunConfig, make_config
from seit_train.footprint import Footprint
from seit_train.pictures import PictureFolder
from seit_train.tasks.base import MaskFacts, StoreFacts, Task
from tokenstore.errors import StoreError, TrainingError, UsageError
from tokenstore.preprocess import Preprocess
from tokenstore.reader import Store
from tokenstore.registry import find
from tokenstore.vocabulary import Vocabulary

CONFIG = "config.json"
ENVIRONMENT = "environment.json"
FOOTPRINT = "footprint.json"
STORE = "store.json"
VOCABULARY = "vocabulary.safetensors"
PIXELS = "pixels"  # the name of the tokenizer where a run reads pictures as they are


@dataclass(frozen=True)
class StoreIdentity:
    """What a run remembers of its store, or of its folder of pictures.

    Attributes:
        place: where the store was.
        fingerprint: of the store, gates `--resume`.
        tokenizer: name, config and hash of the weights, as in the manifest; `PIXELS` for pictures.
        preprocess: rule and size, as in the manifest.
        grid: (h, w) or (c, h, w) of an image's ranks; (0, 0) for pictures.
        classes: names in label order, empty without labels.
        vocabulary: ids in rank order, with their counts in train and the codebook.
        masks: `size` and `ignore_index` of the masks, whose classes are then `classes`; or None.
    """

    place: str
    fingerprint: str
    tokenizer: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    grid: tuple[int, ...]
    classes: tuple[str, ...]
    vocabulary: Vocabulary
    masks: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, store: Store) -> Self:
        """The identity of an open store."""
        manifest = store.manifest
        return cls(
            place=store.url,
            fingerprint=store.fingerprint,
            tokenizer=manifest.tokenizer.model_dump(mode="json"),
            preprocess=dict(manifest.preprocess),
            grid=tuple(manifest.grid),
            classes=tuple(manifest.classes or ()),
            vocabulary=store.vocabulary,
            masks=_masks_of(store),
        )

    @classmethod
    def of_pictures(cls, folder: PictureFolder) -> Self:
        """The identity of a folder of pictures, which has neither grid nor vocabulary."""
        return cls(
            place=folder.place,
            fingerprint=folder.fingerprint,
            tokenizer={"name": PIXELS, "config": {}, "weights": None},
            preprocess={},
            grid=(0, 0),
            classes=folder.classes,
            vocabulary=_no_vocabulary(),
        )

    def facts(self) -> StoreFacts:
        """What a task must know.

        Raises:
            TrainingError: a grid with channels, and nothing that tells what its ranks mean.
        """
        rows, masks, scale = self.vocabulary.codebook, None, self.tokenizer["config"].get("scale")
        if len(self.grid) != 2 and (rows is None or scale is None):
            raise TrainingError(
                f"store '{self.place}' has grids of shape {self.grid}; training reads [h, w], and "
                "[c, h, w] where the tokenizer tells the scale of its channels, as dct does"
            )
        if self.masks is not None:
            height, width = self.masks["size"]
            masks = MaskFacts((height, width), self.classes, self.masks["ignore_index"])
        return StoreFacts(
            vocabulary_size=len(self.vocabulary),
            grid=(self.grid[-2], self.grid[-1]),
            codebook=None if rows is None else torch.tensor(rows),
            classes=() if self.masks else self.classes,
            counts=torch.tensor(self.vocabulary.counts),
            codes=Codes(self.tokenizer, self.preprocess, torch.tensor(self.vocabulary.ids).long()),
            masks=masks,
            scale=None if len(self.grid) == 2 else torch.tensor(scale),
        )

    def vocabulary_fingerprint(self, size: int | None = None) -> str:
        """Identity of the first `size` ranks, by default of all; gates `--init`."""
        head = Vocabulary(self.vocabulary.ids[:size], self.vocabulary.counts[:size])
        return head.fingerprint(self.tokenizer["name"], self.tokenizer["weights"])


class Run:
    """A training: its configuration, its store, and the folder that holds them."""

    def __init__(self, folder: Path, config: RunConfig, store: StoreIdentity) -> None:
        """Describe a run; nothing is read or written before `write`."""
        self.folder, self.config, self.store = folder, config, store
        self.task: type[Task] = find("seit_train.tasks", config.task)

    def refuse_taken_folder(self) -> None:
        """Look whether a new run may be written to this folder.

        Raises:
            UsageError: the folder holds a run already, or something else.
        """
        folder = self.folder
        if (folder / CONFIG).exists():
            raise UsageError(
                f"'{folder}' holds a run already. Continue it with --resume, or choose another -o."
            )
        if folder.exists() and not (folder.is_dir() and _is_barely_begun(folder)):
            raise UsageError(f"'{folder}' exists and holds no run. Choose an empty or a new -o.")

    def write(self) -> None:
        """Make the folder a run: store and vocabulary first, then the configuration."""
        folder, store = self.folder, self.store
        folder.mkdir(parents=True, exist_ok=True)
        if store.tokenizer["name"] != PIXELS:
            replace_file(folder / VOCABULARY, store.vocabulary.to_bytes())
        names = [field.name for field in fields(store) if field.name != "vocabulary"]
        _write_json(folder / STORE, {name: getattr(store, name) for name in names})
        _write_json(folder / CONFIG, self.config.model_dump(mode="json"))

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read a run folder.

        Raises:
            TrainingError: the folder holds no run, or it is damaged.
        """
        if not (folder / CONFIG).is_file():
            raise TrainingError(f"'{folder}' holds no run: it has no {CONFIG}")
        try:
            settings = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            store = _read_identity(folder)
        except (OSError, ValueError, TypeError, KeyError, StoreError) as error:
            raise TrainingError(f"run '{folder}' is damaged: {error}. Start a new run.") from error
        task = find("seit_train.tasks", settings["task"])
        config = make_config(task.Config, settings, origin=str(folder / CONFIG))
        return cls(folder, config, store)

    @property
    def last(self) -> Path:
        """Folder of the newest checkpoint."""
        return self.folder / "checkpoints" / "last"

    @property
    def best(self) -> Path:
        """Folder of the checkpoint with the best metric on val."""
        return self.folder / "checkpoints" / "best"

    def result(self) -> Path:
        """The checkpoint to use: the best, or the newest where nothing was evaluated.

        Raises:
            TrainingError: there is none yet.
        """
        for checkpoint in (self.best, self.last):
            if has_checkpoint(checkpoint):
                return checkpoint
        raise TrainingError(f"run '{self.folder}' has no checkpoint yet: continue it with --resume")

    def origin(self) -> dict[str, str]:
        """String facts that go beside the weights, for `--init` from a single file."""
        return {
            "task": self.config.task,
            "vocabulary": self.store.vocabulary_fingerprint(),
            "vocabulary_size": str(len(self.store.vocabulary)),
        }

    def note_environment(self, **facts: Any) -> None:
        """Write environment.json: versions, machine and command, besides the given facts.

        A run that is resumed without its `init` keeps the one that it began from.
        """
        file = self.folder / ENVIRONMENT
        if facts.get("init") is None and file.exists():
            facts["init"] = json.loads(file.read_text(encoding="utf-8")).get("init")
        packages = ("seit-train", "tokenstore", "torch", "timm", "numpy")
        environment = {
            "command": sys.argv,
            "versions": {name: version(name) for name in packages},
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            **facts,
        }
        _write_json(file, environment)

    def note_footprint(self, footprint: Footprint) -> None:
        """Write footprint.json."""
        _write_json(self.folder / FOOTPRINT, asdict(footprint))


def _masks_of(store: Store) -> dict[str, Any] | None:
    """What a run remembers of a store's masks, if its splits have any."""
    if not any("mask" in split.columns for split in store.splits.values()):
        return None
    size = Preprocess.from_json(dict(store.manifest.preprocess)).size
    return {"size": list(size), "ignore_index": store.manifest.ignore_index}


def _read_identity(folder: Path) -> StoreIdentity:
    plain = json.loads((folder / STORE).read_text(encoding="utf-8"))
    vocabulary = _no_vocabulary()
    if plain["tokenizer"]["name"] != PIXELS:
        file = folder / VOCABULARY
        vocabulary = Vocabulary.from_bytes(file.read_bytes(), str(file))
    plain |= {"grid": tuple(plain["grid"]), "classes": tuple(plain["classes"])}
    return StoreIdentity(**plain, vocabulary=vocabulary)


def _is_barely_begun(folder: Path) -> bool:
    """Whether a folder is empty, or holds what a run killed in `Run.write` leaves behind."""
    begun = {VOCABULARY, STORE, *(partial_name(name) for name in (VOCABULARY, STORE, CONFIG))}
    return all(path.name in begun for path in folder.iterdir())


def _no_vocabulary() -> Vocabulary:
    return Vocabulary(np.zeros(0, np.int32), np.zeros(0, np.int64))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    replace_file(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())
