"""The models of the papers, by name, at the sizes that the papers train.

Each is what a task builds for ImageNet-1k as SeiT stores it: 32x32 ids of 391 codes of 32 numbers,
cropped to 28x28, 1,000 classes. Nothing here has weights: models are laid out without memory, to be
counted and shown. `seit-train models` prints this.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from seit_train.augment.base import Codes
from seit_train.models.mtm import MaskedModel
from seit_train.tasks.base import StoreFacts, Task
from tokenstore.registry import find

_CODES, _CHANNELS, _CLASSES, _SIDE = 391, 32, 1000, 32
_RUN: dict[str, Any] = {"epochs": 1, "batch_size": 1, "lr": 1.0}


class Entry(NamedTuple):
    """One model of the catalogue.

    Attributes:
        name: what it is called.
        task: what trains it.
        settings: keys of the task's configuration that make it.
        source: the paper.
    """

    name: str
    task: str
    settings: dict[str, Any]
    source: str


def _vit(size: str) -> Entry:
    place = "ViT (2010.11929), Table 1" if size == "L" else "DeiT (2012.12877), Table 1"
    return Entry(f"vit-{size}", "classify", {"model": {"size": size}}, f"{place}; SeiT's stem")


def _masked(method: str, size: str, source: str, **more: Any) -> Entry:
    model = {"encoder": {"size": size, "drop_path": 0.0, **more.pop("encoder", {})}}
    model |= {"decoder": more.pop("decoder")} if "decoder" in more else {}
    return Entry(
        more.pop("name", f"{method}-{size}"),
        "mtm",
        {"method": method, "model": model, **more},
        source,
    )


_MAGE: dict[str, Any] = {
    "encoder": {"dropout": 0.1},
    "decoder": {"width": 768, "depth": 8, "heads": 16},
}
CATALOGUE = (
    *(_vit(size) for size in ("Ti", "S", "B", "L")),
    *(
        Entry(name, "classify", {"model": {"backbone": name}}, "ResNet (1512.03385); SeiT's stem")
        for name in ("resnet18", "resnet50")
    ),
    Entry(
        "resnet18-third",
        "classify",
        {"model": {"backbone": "resnet18-third"}},
        "GEM (1706.08840), section 5; SeiT's stem",
    ),
    *(_masked("mtm", size, "SeiT++ (2312.10105)") for size in ("S", "B")),
    *(_masked("lut", size, "LUT (2310.13593)") for size in ("S", "B", "L")),
    _masked("simmim", "B", "SimMIM (2111.09886)"),
    _masked("mage", "B", "MAGE (2211.09117)", **_MAGE),
    _masked("mage", "B", "MAGE (2211.09117)", name="mage-c-B", **_MAGE, mage={"contrast": 0.1}),
    Entry("token_adapt", "tokenadapt", {}, "SeiT++ (2312.10105), section 3.2"),
)


class Size(NamedTuple):
    """Parameters of a model.

    Attributes:
        trained: those that a run moves.
        kept: those that are used afterwards: a backbone or an encoder, without head and decoder.
    """

    trained: int
    kept: int


def sizes() -> Iterator[tuple[Entry, Size]]:
    """The catalogue with the sizes of its models."""
    for entry in CATALOGUE:
        model = build(entry)
        kept = model.encoder if isinstance(model, MaskedModel) else model
        heads = ("head.", "fc.") if entry.task == "classify" else ()
        yield (
            entry,
            Size(
                sum(p.numel() for p in model.parameters() if p.requires_grad),
                sum(p.numel() for n, p in kept.named_parameters() if not n.startswith(heads)),
            ),
        )


def build(entry: Entry) -> nn.Module:
    """A model of the catalogue, laid out on the device `meta`: shapes without numbers."""
    kind: type[Task] = find("seit_train.tasks", entry.task)
    pairs = entry.task == "tokenadapt"
    facts = StoreFacts(
        vocabulary_size=_CODES,
        grid=(_SIDE * (2 if pairs else 1), _SIDE),
        codebook=torch.zeros(_CODES, _CHANNELS),
        classes=tuple(f"class {number}" for number in range(_CLASSES)),
        counts=torch.ones(_CODES),
        codes=Codes({}, {}, torch.arange(_CODES)),
    )
    task = kind(kind.Config(task=entry.task, **_RUN, **entry.settings), facts)
    with torch.device("meta"):
        return task.build_model()
