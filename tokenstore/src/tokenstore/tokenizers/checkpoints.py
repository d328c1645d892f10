"""Checkpoints: whatever form a model was published in, its tensors by their names, and no more.

Between a weights file and a tokenizer's network. Nothing from a file is executed (pickles/);
damage, another family's tensors, and tensors that do not fit are errors. Also writes and reads
this project's own safetensors. What the tensors mean is the business of a tokenizer.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from tokenstore.errors import WeightsError
from tokenstore.pickles.machine import Stub
from tokenstore.pickles.tensors import TensorRecord
from tokenstore.pickles.torch_files import TorchFile, open_torch_file, read_head
from tokenstore.tokenizers.nesting import model_in, own_names

Tensors = dict[str, torch.Tensor]
Metadata = dict[str, str]


def _has(held: Tensors, *beginnings: str) -> bool:
    return all(any(name.startswith(one) for name in held) for one in beginnings)


def _has_variances(held: Tensors) -> bool:
    """Whether an encoder gives two numbers, mean and variance, for each that its decoder takes."""
    given, taken = held.get("encoder.conv_out.bias"), held.get("decoder.conv_in.weight")
    if given is None or taken is None or taken.ndim != 4:
        return False
    return given.numel() == 2 * taken.shape[1]


FAMILIES: dict[str, Callable[[Tensors], bool]] = {
    "vit-vqgan": lambda held: _has(held, "encoder.to_patch_embedding.", "decoder.transformer."),
    "seit encoder": lambda held: any(name.endswith("en_pos_embedding") for name in held),
    "llamagen": lambda held: _has(held, "encoder.conv_blocks."),
    "vqgan-gumbel": lambda held: _has(held, "encoder.down.", "quantize.proj."),
    "KL autoencoder": lambda held: _has(held, "encoder.down.") and _has_variances(held),
    "vqgan": lambda held: _has(held, "encoder.down.", "decoder.up."),
    "pocket": lambda held: {"codebook", "encoder.1.weight"} <= held.keys(),
}


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one model, as a file has them.

    Attributes:
        file: where they came from.
        sha256: of the file's bytes, hexadecimal.
        tensors: by name without wrappers' prefixes; floating ones are float32, all on the CPU.
    """

    file: Path
    sha256: str
    tensors: Tensors


def read_checkpoint(file: Path) -> Checkpoint:
    """Read a model's tensors out of a published file.

    Takes Lightning's files, bare state dicts, those under `ema`, `model` or `state_dict`, torch's
    zip and older form, whole pickled modules, and safetensors. Losses, optimizers, discriminators
    and statistics are left out.

    Raises:
        WeightsError: no such file, no checkpoint, a damaged one, or one that may run code.
    """
    if _is_safetensors(file):
        tensors = own_names(read_tensors(file)[0], file)
    else:
        opened = open_torch_file(file)
        records = own_names(model_in(opened.content, file), file)
        tensors = {name: _read(opened, record, name) for name, record in records.items()}
    if sum(tensor.numel() for tensor in tensors.values()) > file.stat().st_size:
        raise WeightsError(
            f"'{file}' holds fewer numbers than its tensors claim, by sharing them. It is no "
            "checkpoint of a tokenizer."
        )
    return Checkpoint(
        file, sha256_of(file), {name: _float32(value) for name, value in tensors.items()}
    )


def read_tensor(file: Path) -> torch.Tensor:
    """The tensor of a file that holds nothing else, such as SeiT's codebook; see `read_checkpoint`.

    Raises:
        WeightsError: as `read_checkpoint`, or the file holds something else.
    """
    opened = None if _is_safetensors(file) else open_torch_file(file)
    if opened is None or not isinstance(opened.content, TensorRecord):
        raise WeightsError(
            f"'{file}' holds no bare tensor. Pass the codebook's file, saved as one tensor alone."
        )
    return _float32(_read(opened, opened.content, "codebook"))


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal; computed once while the file stays the same."""
    state = file.stat()
    return _sha256(file, state.st_size, state.st_mtime_ns)


@lru_cache
def _sha256(file: Path, _size: int, _modified: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def family_of(tensors: Tensors) -> str | None:
    """The family whose names these are, such as "vqgan"; None where no known one's."""
    return next((family for family, told in FAMILIES.items() if told(tensors)), None)


def require_family(checkpoint: Checkpoint, family: str, name: str) -> None:
    """Refuse a checkpoint of another family than the tokenizer `name` is of.

    Raises:
        WeightsError: it is of another one; the message says of which.
    """
    found = family_of(checkpoint.tensors)
    if found == family:
        return
    first = ", ".join(list(checkpoint.tensors)[:3])
    what = f"a {found} model" if found else f"no tokenizer known here (it begins with {first})"
    raise WeightsError(
        f"'{checkpoint.file}' holds {what}, not {family} as {name} needs. Pass the weights of "
        f"{name}; `tokenstore tokenizers {name}` says where they are published."
    )


def fill_module(module: nn.Module, tensors: Tensors, file: Path) -> None:
    """Give a module, which may be on the meta device, the tensors of exactly its names and shapes.

    Raises:
        WeightsError: a tensor is missing, unknown, of another shape, or not finite; `file` is
            named as where they came from.
    """
    expected = module.state_dict()
    missing = [name for name in expected if name not in tensors]
    unknown = [name for name in tensors if name not in expected]
    if missing or unknown:
        what = f"lacks {_first(missing)}" if missing else f"has an unknown {_first(unknown)}"
        also = f": {_first(unknown)}" if missing and unknown else ""
        raise WeightsError(
            f"'{file}' {what} ({len(missing)} tensors missing, {len(unknown)} unknown{also}): it "
            "was made for another version of this network, or is incomplete."
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
    # Assigned and not copied, so that the weights of 2.5 GB are in memory once.
    kept = {name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}
    module.load_state_dict(kept, assign=True)


def write_tensors(file: Path, tensors: Mapping[str, torch.Tensor], metadata: Metadata) -> None:
    """Write tensors and metadata as safetensors, replacing `file` in one move."""
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
    read_head(file)
    try:
        with safe_open(file, framework="pt") as content:
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            return tensors, content.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"'{file}' is no whole safetensors file ({error}). Make or fetch it anew."
        ) from error


def _is_safetensors(file: Path) -> bool:
    """By its first bytes, <u8 length of the header> "{", or by its name."""
    head = read_head(file)
    return file.suffix == ".safetensors" or (head[8:9] == b"{" and head[5:8] == b"\0\0\0")


def _read(opened: TorchFile, record: Any, name: str) -> torch.Tensor:
    if not isinstance(record, TensorRecord):
        kind = str(record.origin) if isinstance(record, Stub) else type(record).__name__
        raise WeightsError(
            f"'{opened.file}': {name[:80]!a} is no plain tensor but {kind}, which is not read "
            "here. Save the model's state dict anew."
        )
    return opened.tensor(record, name)


def _float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _first(names: list[str]) -> str:
    """["a", "b", "c", "d"] -> "'a', 'b', 'c'"."""
    return ", ".join(f"{name[:80]!a}" for name in names[:3])
