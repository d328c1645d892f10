"""Checkpoint: everything a run needs to go on, in three files that hold no code.

    checkpoints/last/model.safetensors   weights; with an average (EMA), the averaged ones
    checkpoints/last/state.safetensors   `optimizer/<parameter>/<slot>`; with an average, also
                                         `model/<parameter>`: the weights that are being trained
    checkpoints/last/state.json          step, best metric, loader state, seconds so far

A checkpoint is written beside the old one and takes its name when it is whole, so that at any
moment one whole checkpoint is there. There is no state of random numbers: every step seeds its own
from (seed, step, process). What the tensors mean is the model's business.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tokenstore.errors import TrainingError

MODEL = "model.safetensors"
STATE_TENSORS = "state.safetensors"
STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint holds.

    Attributes:
        weights: of the model that is evaluated.
        tensors: of the state, named as in the module's docstring.
        state: JSON values of the state.
        origin: string facts kept beside the weights: task and vocabulary they were trained for.
    """

    weights: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]
    origin: Mapping[str, str]


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint under the name `folder`, replacing an older one there when it is whole."""
    new = _beside(folder, "new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    save_file(_storable(checkpoint.weights), new / MODEL, metadata=dict(checkpoint.origin))
    save_file(_storable(checkpoint.tensors), new / STATE_TENSORS)
    (new / STATE).write_text(json.dumps(dict(checkpoint.state), indent=1) + "\n", encoding="utf-8")
    for file in new.iterdir():
        _flush(file)
    _take_name(new, folder)


def has_checkpoint(folder: Path) -> bool:
    """Whether a whole checkpoint is there, also where a kill fell between its two renames."""
    old = _beside(folder, "old")
    if not folder.exists() and old.exists():
        old.rename(folder)
    return (folder / STATE).is_file()


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint back, on the CPU.

    Raises:
        TrainingError: files are missing or damaged.
    """
    weights, origin = load_weights(folder / MODEL)
    try:
        tensors = load_file(folder / STATE_TENSORS)
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError) as error:
        raise _damaged(folder, error) from error
    return Checkpoint(weights, tensors, state, origin)


def find_weights(place: Path) -> Path:
    """The weights of a run (its best checkpoint, or its newest), of a checkpoint, or the file.

    Raises:
        TrainingError: there are none.
    """
    for file in (place / "checkpoints/best" / MODEL, place / "checkpoints/last" / MODEL):
        if file.is_file():
            return file
    file = place / MODEL if place.is_dir() else place
    if not file.is_file():
        raise TrainingError(f"'{place}' holds no weights. Give a run, a checkpoint or its {MODEL}.")
    return file


def load_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Weights on the CPU and their origin, from a safetensors file.

    Raises:
        TrainingError: the file is missing, damaged or no safetensors file.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return weights, dict(opened.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise _damaged(file, error) from error


def replace_file(path: Path, content: bytes) -> None:
    """Write a file beside its old form, and give it the name when it is whole and on the disk."""
    new = path.with_name(partial_name(path.name))
    new.write_bytes(content)
    _flush(new)
    new.replace(path)


def partial_name(name: str) -> str:
    """What `replace_file` calls a file that is not whole yet."""
    return f".{name}.new"


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state by parameter name: `optimizer/blocks.0.norm1.weight/exp_avg`."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"optimizer/{names[parameter]}/{slot}": value
        for parameter, slots in optimizer.state.items()
        for slot, value in slots.items()
        if isinstance(value, Tensor)
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Give an optimizer the state that `optimizer_tensors` took, on its parameters' device."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    state: dict[int, dict[str, Tensor]] = {}
    ordered = [p for group in optimizer.param_groups for p in group["params"]]
    for number, parameter in enumerate(ordered):
        prefix = f"optimizer/{names[parameter]}/"
        slots = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        if slots:
            state[number] = slots
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Own, contiguous memory for each: safetensors refuses tensors that share theirs."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def _take_name(new: Path, folder: Path) -> None:
    """Rename a whole checkpoint to its name; the old one goes when the new one is in place."""
    old = _beside(folder, "old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    new.rename(folder)
    _flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _beside(folder: Path, word: str) -> Path:
    """checkpoints/last -> checkpoints/.last.new."""
    return folder.with_name(f".{folder.name}.{word}")


def _flush(path: Path) -> None:
    """Bring a file or a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _damaged(place: Path, error: Exception) -> TrainingError:
    return TrainingError(
        f"checkpoint '{place}' cannot be read: {error}. Use another checkpoint, or start the run "
        "again in a new folder."
    )
