"""Weights files: safetensors written whole or not at all, and read without executing anything.

Between a tokenizer's network and the disk. What the tensors and the metadata mean is the
business of the tokenizer that calls; this module refuses what is damaged or does not fit.
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from tokenstore.errors import WeightsError

Tensors = dict[str, torch.Tensor]
Metadata = dict[str, str]


def write_tensors(file: Path, tensors: Mapping[str, torch.Tensor], metadata: Metadata) -> None:
    """Write tensors and metadata, replacing `file` in one move."""
    handle, partial = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    os.close(handle)
    try:
        contiguous = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(contiguous, partial, metadata)
        Path(partial).chmod(0o644)
        Path(partial).replace(file)
    finally:
        Path(partial).unlink(missing_ok=True)


def read_tensors(file: Path) -> tuple[Tensors, Metadata]:
    """All tensors of a safetensors file, on the CPU, and its metadata.

    Raises:
        WeightsError: no such file, or no whole safetensors.
    """
    try:
        with safe_open(file, framework="pt") as content:
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            return tensors, content.metadata() or {}
    except FileNotFoundError:
        raise WeightsError(
            f"there is no file '{file}'. Check the path, or leave it out to use the weights that "
            "come with the tokenizer."
        ) from None
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"'{file}' is no whole safetensors file ({error}). Make or fetch it anew."
        ) from error


def fill_module(module: nn.Module, tensors: Tensors, file: Path) -> None:
    """Copy float tensors into a module whose state has exactly their names and shapes.

    Raises:
        WeightsError: a tensor is missing, unknown, of another shape, or not finite; `file` is
            named as where they came from.
    """
    expected = module.state_dict()
    missing, unknown = sorted(expected.keys() - tensors), sorted(tensors.keys() - expected)
    if missing or unknown:
        what = f"lacks '{missing[0]}'" if missing else f"has an unknown '{unknown[0]}'"
        raise WeightsError(
            f"'{file}' {what} ({len(missing)} tensors missing, {len(unknown)} unknown): it was "
            "made for another version of this network, or is incomplete."
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise WeightsError(
                f"'{file}': tensor '{name}' is {list(tensor.shape)}, expected "
                f"{list(expected[name].shape)}. It was made for another network."
            )
        if not torch.isfinite(tensor).all():
            raise WeightsError(
                f"'{file}': tensor '{name}' holds values that are not finite. Make it anew."
            )
    module.load_state_dict(tensors)
