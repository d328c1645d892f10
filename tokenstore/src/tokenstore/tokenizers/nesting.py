"""Where in a checkpoint the model is: under which key, in which wrappers, beside what else.

Between the content of a file, as pickles/ gives it, and checkpoints.py, which wants the model's
tensors by their own names. Works on records; no numbers are read here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenstore.errors import WeightsError
from tokenstore.pickles.machine import Stub
from tokenstore.pickles.tensors import TensorRecord

# Where trainers put a model's tensors, in the order in which LlamaGen's own readers look.
NESTS = ("ema", "model", "state_dict")
WRAPPERS = ("module.", "first_stage_model.")  # DistributedDataParallel; a whole latent diffusion
# Losses, discriminators, averages that upstream never reads, statistics, a colouring for show.
DROPPED = ("loss.", "discriminator.", "model_ema.", "quantize.codebook_used", "colorize")
DEEPEST_NEST = 4
MOST_PARTS = 10_000  # a module that holds itself would never end


def model_in(content: Any, file: Path) -> dict[str, Any]:
    """The innermost mapping of names to tensors, in a file's content.

    Args:
        content: as `unpickle` gives it.
        file: named in errors.

    Raises:
        WeightsError: there is none.
    """
    for _ in range(DEEPEST_NEST):
        if _is_module(content):
            return _tensors_of_module(content, file)
        entries = content.entries if isinstance(content, Stub) else content
        nested = _nested(entries) if isinstance(entries, dict) else None
        if nested is None:
            break
        content = nested
    if isinstance(entries, dict) and any(isinstance(v, TensorRecord) for v in entries.values()):
        return entries
    if isinstance(content, TensorRecord):
        raise WeightsError(
            f"'{file}' holds one bare tensor {list(content.shape)}, no model: it may be a "
            "codebook. Pass the file with the model's weights."
        )
    held = _some(list(entries), "entries") if isinstance(entries, dict) else "other data"
    raise WeightsError(
        f"'{file}' holds no model, only {held}. A checkpoint has its tensors at the top or under "
        f"{', '.join(NESTS)}."
    )


def _nested(entries: dict[Any, Any]) -> Any | None:
    """What lies under the first of `NESTS` that holds anything."""
    for nest in NESTS:
        inner = entries.get(nest)
        if inner and (isinstance(inner, dict) or _is_module(inner) or _entries_of(inner)):
            return inner
    return None


def _entries_of(value: Any) -> dict[Any, Any]:
    return value.entries if isinstance(value, Stub) else {}


def _is_module(value: Any) -> bool:
    state = value.state if isinstance(value, Stub) else None
    parts = ("_parameters", "_buffers", "_modules")
    return isinstance(state, dict) and all(isinstance(state.get(part), dict) for part in parts)


def _tensors_of_module(top: Stub, file: Path) -> dict[str, Any]:
    """What `state_dict` of a pickled torch module would hold, by the same names."""
    tensors: dict[str, Any] = {}
    waiting, seen = [("", top)], 0
    while waiting:
        prefix, stub = waiting.pop()
        seen += 1
        if seen > MOST_PARTS:
            raise WeightsError(f"'{file}' holds a module of endless parts. It is no checkpoint.")
        passing = stub.state.get("_non_persistent_buffers_set")
        passing = passing if isinstance(passing, list) else []
        for kind in ("_parameters", "_buffers"):
            for name, value in stub.state[kind].items():
                if value is not None and name not in passing:
                    tensors[f"{prefix}{name}"] = value
        parts = [(f"{prefix}{name}.", part) for name, part in stub.state["_modules"].items()]
        waiting += [(name, part) for name, part in parts[::-1] if _is_module(part)]
    return tensors


def own_names(held: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Names without wrappers' prefixes, less what belongs to the training.

    Raises:
        WeightsError: nothing is left.
    """
    # torch.compile wraps any part of a model, DistributedDataParallel the whole.
    named = {str(name).replace("_orig_mod.", ""): value for name, value in held.items()}
    for wrapper in WRAPPERS:
        inside = {n.removeprefix(wrapper): v for n, v in named.items() if n.startswith(wrapper)}
        if len(inside) == len(named) or (inside and wrapper == "first_stage_model."):
            named = inside
    own = {name: value for name, value in named.items() if not name.startswith(DROPPED)}
    if not own:
        raise WeightsError(f"'{file}' holds no tensors of a model. Pass a whole checkpoint.")
    return own


def _some(names: list[Any], what: str) -> str:
    """[1, 2, 3, 4], "tensors" -> "4 tensors ('1', '2', '3', ...)"."""
    first = ", ".join(f"{str(name)[:80]!a}" for name in names[:3])
    return f"{len(names)} {what} ({first}{', ...' if len(names) > 3 else ''})"
