"""A trained model as one file that runs without this project: ONNX, or torch.export's .pt2.

Either the tokenizer and the model, from uint8 pictures at the tokenizer's size to logits, or the
model alone, from ids. What was written is run at once, by ONNX Runtime or by torch, and compared
with the run itself; a file that says something else is not left behind. Preprocessing of pictures
of other sizes is not in the file: `preprocess` beside the names of the classes tells its rule.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from seit_train.data import TokenBatch
from seit_train.evaluate.on_images import TokenizerFiles, load_run_tokenizer
from seit_train.evaluate.picture_path import Codes
from seit_train.evaluate.trained import Trained
from seit_train.tasks.classify import Classification
from seit_train.tasks.pixels import Pixels
from seit_train.tasks.segment import Segmentation
from tokenstore.errors import TrainingError, UsageError
from tokenstore.tokenizers.network import NetworkTokenizer

SUFFIXES = (".onnx", ".pt2")
TOLERANCE = 1e-3  # of the largest logit, between the run and the file
_SAMPLES = 3
_OPSET = 18


class IdsToLogits(nn.Module):
    """Ids of the tokenizer's codebook to logits; nan for an image with an id that is unknown."""

    rank_of: Tensor

    def __init__(self, trained: Trained) -> None:
        """Take over the model of a run of classify or segment."""
        super().__init__()
        task = cast(Classification | Segmentation, trained.task)
        self.model, self.policy, self.task = trained.model, task.policy, task
        ids = trained.run.store.vocabulary.ids
        rank_of = torch.full((int(ids.max()) + 1,), -1)
        rank_of[torch.from_numpy(ids.astype(np.int64))] = torch.arange(len(ids))
        self.register_buffer("rank_of", rank_of)

    def forward(self, ids: Tensor) -> Tensor:
        """Int64 [n,h,w] -> float32 [n,classes], or [n,classes,H,W] from a segmenter."""
        ranks = self.rank_of[ids]
        logits = self.logits(ranks.clamp(min=0))
        unknown = (ranks < 0).flatten(1).any(dim=1)
        return logits.masked_fill(unknown.view(-1, *[1] * (logits.ndim - 1)), torch.nan)

    def logits(self, ranks: Tensor) -> Tensor:
        """Int64 [n,h,w], all of them known -> the same."""
        if isinstance(self.task, Segmentation):
            return self.task.predict(self.model, ranks)
        return cast(Tensor, self.model(self.policy.plain(ranks))).float()


class PicturesToLogits(nn.Module):
    """Uint8 pictures at the tokenizer's size to logits."""

    levels: Tensor

    def __init__(self, trained: Trained, tokenizer: NetworkTokenizer) -> None:
        """Take over tokenizer and model of a run of classify or segment."""
        super().__init__()
        self.codes = Codes(tokenizer, trained.run.store.vocabulary.ids)
        self.after = IdsToLogits(trained)
        self.register_buffer("levels", torch.from_numpy(np.array(tokenizer.network.levels)))

    def forward(self, images: Tensor) -> Tensor:
        """Uint8 [n,H,W,3] -> float32 [n,classes], or [n,classes,H,W] from a segmenter."""
        latents = self.codes.latents(self.levels[images.long()])
        return self.after.logits(self.codes.nearest(latents))


class PixelsToLogits(nn.Module):
    """Uint8 pictures at the model's size to logits, for a run on pixels."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, trained: Trained) -> None:
        """Take over the model."""
        super().__init__()
        task = cast(Pixels, trained.task)
        self.model = trained.model
        self.register_buffer("mean", task.mean)
        self.register_buffer("deviation", task.deviation)

    def forward(self, images: Tensor) -> Tensor:
        """Uint8 [n,H,W,3] -> float32 [n,classes]."""
        values = (images.permute(0, 3, 1, 2).float() - self.mean) / self.deviation
        return cast(Tensor, self.model(values)).float()


@dataclass(frozen=True)
class Exported:
    """A file that was written and checked.

    Attributes:
        input: name, dtype and shape of what it takes.
        output: shape of the logits.
        difference: greatest absolute difference of a logit between file and run.
        bytes: size of the file.
    """

    input: str
    output: str
    difference: float
    bytes: int


def export(trained: Trained, file: Path, ids: bool, files: TokenizerFiles) -> Exported:
    """Write a run's model to a file, run the file, and compare.

    Args:
        trained: a run of classify, segment or pixels, on the CPU.
        file: `.onnx` or `.pt2`, which must not exist.
        ids: whether it takes ids, not pictures.
        files: of the tokenizer.

    Raises:
        UsageError: another suffix, a file that exists, or a run that has no logits to give.
        TokenizerError: a tokenizer that is no network.
        TrainingError: the file does not say what the run says.
    """
    if file.suffix not in SUFFIXES:
        raise UsageError(f"'{file}' ends with neither .onnx nor .pt2, which say what to write")
    if file.exists():
        raise UsageError(f"'{file}' exists. Choose another -o, or move it away.")
    module, example, expected = _module(trained, ids, files)
    part = file.with_name(f".{file.stem}.part{file.suffix}")
    write, check = (_write_onnx, _run_onnx) if file.suffix == ".onnx" else (_write_pt2, _run_pt2)
    name = "ids" if ids else "images"
    try:
        write(module.eval(), example, part, (name, json.dumps(_notes(trained))))
        found = check(part, example.numpy(), name)
        difference = float(np.abs(found - expected).max())
        if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
            raise TrainingError(
                f"the file gives logits that differ from the run's by {difference:.3g}, so it was "
                "not kept. Write the other format, or export with --ids."
            )
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    shape = "x".join(str(side) for side in example.shape[1:])
    given = f"{name} {str(example.dtype).removeprefix('torch.')} [n,{shape.replace('x', ',')}]"
    output = f"logits float32 [n,{','.join(str(side) for side in expected.shape[1:])}]"
    return Exported(given, output, difference, file.stat().st_size)


def _module(
    trained: Trained, ids: bool, files: TokenizerFiles
) -> tuple[nn.Module, Tensor, np.ndarray[Any, Any]]:
    """What is exported, an input for it, and what the run itself says of that input."""
    task, known = trained.task, trained.run.store
    rng = torch.Generator().manual_seed(0)
    if isinstance(task, Pixels):
        if ids:
            raise UsageError("a run on pixels takes no ids; export it without --ids")
        images = torch.randint(256, (_SAMPLES, *task.size, 3), generator=rng, dtype=torch.uint8)
        return PixelsToLogits(trained), images, _said(trained, images.permute(0, 3, 1, 2))
    if not isinstance(task, Classification | Segmentation):
        raise UsageError(f"runs of classify, segment and pixels give logits, {task.name} does not")
    ranks = torch.randint(len(known.vocabulary), (_SAMPLES, *known.grid), generator=rng)
    own_ids = torch.from_numpy(known.vocabulary.ids.astype(np.int64))[ranks]
    if ids:
        return IdsToLogits(trained), own_ids, _said(trained, ranks)
    tokenizer = load_run_tokenizer(known, torch.device("cpu"), files.weights, files.config)
    tokenizer.restrict(known.vocabulary.ids)
    pictures = tokenizer.to_uint8(tokenizer.decode(own_ids))
    again = known.vocabulary.to_ranks(tokenizer.encode(pictures).numpy()).astype(np.int64)
    module = PicturesToLogits(trained, cast(NetworkTokenizer, tokenizer))
    return module, torch.from_numpy(pictures), _said(trained, torch.from_numpy(again))


def _said(trained: Trained, tokens: Tensor) -> np.ndarray[Any, Any]:
    """Logits as evaluation has them, in float32."""
    valid = torch.ones(len(tokens), dtype=torch.bool)
    with torch.no_grad():
        if isinstance(trained.task, Segmentation):
            return trained.task.predict(trained.model, tokens).numpy()
        batch = TokenBatch(tokens, None, valid, valid.long(), None)
        return trained.task.logits(trained.model, batch).numpy()


def _notes(trained: Trained) -> dict[str, Any]:
    """What goes with the file: names in the order of the logits, and where pictures came from."""
    known = trained.run.store
    return {
        "classes": list(known.classes),
        "preprocess": dict(known.preprocess),
        "tokenizer": dict(known.tokenizer),
    }


def _program(module: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The module's graph, for any number of images."""
    count = torch.export.Dim("n", min=1, max=4096)
    for tensor in (*module.parameters(), *module.buffers()):
        # A file keeps tensors as they lie in memory, and takes channels last for parts of others.
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    with torch.no_grad():
        return torch.export.export(module, (example,), dynamic_shapes=({0: count},))


def _write_pt2(module: nn.Module, example: Tensor, file: Path, said: tuple[str, str]) -> None:
    program = _program(module, example)
    torch.export.save(program, file, extra_files={"model.json": said[1]})


def _run_pt2(file: Path, example: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    with torch.no_grad():
        logits: Tensor = torch.export.load(file).module()(torch.from_numpy(example))
    return logits.numpy()


def _write_onnx(module: nn.Module, example: Tensor, file: Path, said: tuple[str, str]) -> None:
    _needs("onnxscript")
    program = torch.onnx.export(
        _program(module, example),
        (),
        input_names=[said[0]],
        output_names=["logits"],
        opset_version=_OPSET,
        external_data=False,
        verbose=False,
    )
    if program is None:
        raise TrainingError("torch.onnx gave no model")
    program.model.metadata_props["model"] = said[1]
    program.save(str(file), external_data=False)


def _run_onnx(file: Path, example: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
    runtime = _needs("onnxruntime")
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found: np.ndarray[Any, Any] = session.run(None, {name: example})[0]
    return found


def _needs(package: str) -> Any:
    """A package of the extra `export`.

    Raises:
        UsageError: it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UsageError(
            f"ONNX needs the package {package}: pip install 'seit-train[export]', or write .pt2"
        ) from error
