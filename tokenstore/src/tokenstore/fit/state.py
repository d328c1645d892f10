"""The state of an unfinished training, as one safetensors file beside its output.

    network.*, averaged.*   weights and codebook, float32
    quantiser.*             running counts and sums
    optimizer.<i>.*         AdamW's moments of parameter i
    metadata                step, and the identity of settings and photos

It is written whole or not at all, and read without executing anything.
"""

from pathlib import Path

import torch

from tokenstore.errors import TrainingError
from tokenstore.fit.train import Trainer
from tokenstore.tokenizers.checkpoints import read_tensors, write_tensors

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def save_state(file: Path, trainer: Trainer, identity: str) -> None:
    """Write all that a training needs to go on."""
    write_tensors(file, _tensors(trainer), {"step": str(trainer.step), "identity": identity})


def load_state(file: Path, trainer: Trainer, identity: str) -> None:
    """Bring a new trainer to where the state was written.

    Raises:
        WeightsError: the file is damaged.
        TrainingError: it is the state of a training with other settings or photos.
    """
    saved, metadata = read_tensors(file)
    if metadata.get("identity") != identity:
        raise TrainingError(
            f"'{file}' is the state of a training with other settings or photos. Repeat its line "
            "to go on with it, remove it to begin anew, or choose another output."
        )
    _prepare_moments(trainer.optimizer)
    for name, value in _tensors(trainer).items():
        value.detach().copy_(saved[name])
    trainer.step = int(metadata["step"])


def _tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The tensors of a training by name; not copies."""
    tensors = {f"network.{name}": value for name, value in trainer.network.state_dict().items()}
    tensors |= {f"averaged.{name}": value for name, value in trainer.averaged.state_dict().items()}
    tensors |= {
        "quantiser.counts": trainer.quantiser.counts,
        "quantiser.sums": trainer.quantiser.sums,
    }
    for index, moments in enumerate(trainer.optimizer.state.values()):
        tensors |= {f"optimizer.{index}.{name}": moments[name] for name in MOMENTS}
    return tensors


def _prepare_moments(optimizer: torch.optim.Optimizer) -> None:
    """Give each parameter the moments that AdamW makes at its first step."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros(()),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }
