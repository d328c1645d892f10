"""Launch: from what a person asked for to a trainer that runs, or a refusal before the first step.

Checks come in the order of their cost: recipe and overrides, store, run folder, weights to start
from, then the model. What happens in a step is the trainer's business.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seit_train.augment.compose import written
from seit_train.checkpoint import has_checkpoint
from seit_train.config import DataConfig, RunConfig, make_config
from seit_train.data import Samples, training_split
from seit_train.distributed import joined_world, wait_for_all
from seit_train.footprint import footprint
from seit_train.initial import start_from
from seit_train.out_of_memory import memory_explained
from seit_train.pictures import open_pictures
from seit_train.recipe import DEFAULT_RECIPE, read_recipe
from seit_train.run import CONFIG, Run, StoreIdentity
from seit_train.trainer import Trainer
from tokenstore.errors import Mismatch, UsageError
from tokenstore.reader import open_store
from tokenstore.registry import find

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainRequest:
    """What `seit-train TASK STORE -o RUN ...` asks for.

    Attributes:
        task: name of the task.
        store: folder or URL of the store; for `pixels`, a folder of images.
        folder: of the run.
        recipe: name or file; None means the default recipe.
        overrides: `key=value`, dotted keys.
        init: run, checkpoint or published file whose weights to start from.
        resume: go on with the run in `folder`; it is begun where there is none yet.
    """

    task: str
    store: str
    folder: Path
    recipe: str | None = None
    overrides: Sequence[str] = ()
    init: str | None = None
    resume: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    Attributes:
        run: the run.
        steps: steps done in all.
        best: best value of the task's metric, None without a val split.
        seconds: time spent, over all resumes.
        trained: False where a resumed run had ended before.
        is_first: whether this process is the one that talks.
    """

    run: Run
    steps: int
    best: float | None
    seconds: float
    trained: bool
    is_first: bool


def train(request: TrainRequest) -> Outcome:
    """Train as asked; under torchrun every process calls this.

    Raises:
        TokenstoreError: whatever is wrong, before the first step where that can be known.
    """
    with joined_world() as world:
        corpus = _corpus(request, DataConfig())
        run = _run(request, corpus.identity)
        if run.config.data.cache is not None or run.config.data.mix:
            corpus = _corpus(request, run.config.data)
        val = corpus.splits.get("val")
        with memory_explained(run.config, world):
            trainer = Trainer(run, world, _training_split(corpus), val or None)
            if has_checkpoint(run.last):
                trainer.resume()
            elif request.init is not None:
                start_from(Path(request.init), trainer.task, trainer.model, run.store)
            trained = trainer.step < trainer.steps
            wait_for_all()  # nobody may find the folder of this very run and take it for another's
            if world.is_first:
                run.write()
                _note(trainer, request.init)
            trainer.fit()
        return Outcome(run, trainer.step, trainer.best, trainer.seconds, trained, world.is_first)


def requested_config(request: TrainRequest) -> RunConfig:
    """The complete configuration that a request describes.

    Raises:
        UnknownName: no such task, recipe or key.
        UsageError: a value of the wrong kind.
    """
    task = find("seit_train.tasks", request.task)
    recipe = request.recipe or DEFAULT_RECIPE
    if request.recipe is None:
        _log.info("recipe %s, for want of another: see `seit-train recipes`", recipe)
    section = read_recipe(recipe, request.task)
    config: RunConfig = make_config(task.Config, section, request.overrides, origin=recipe)
    return config


@dataclass(frozen=True)
class Corpus:
    """What is trained on: a store or a folder of pictures, and its splits."""

    identity: StoreIdentity
    splits: Mapping[str, Samples]


def _corpus(request: TrainRequest, data: DataConfig) -> Corpus:
    """Open it, a store through the cache that is asked for and mixed as asked."""
    if not find("seit_train.tasks", request.task).reads_ranks:
        folder = open_pictures(request.store)
        return Corpus(StoreIdentity.of_pictures(folder), folder.splits)
    store = open_store(request.store, cache=data.cache, cache_bytes=data.cache_bytes)
    return Corpus(StoreIdentity.of(store), {**store.splits, "train": training_split(store, data)})


def _run(request: TrainRequest, identity: StoreIdentity) -> Run:
    """The run to go on with, or a new one that is not written yet."""
    if request.resume and (request.folder / CONFIG).exists():
        return _resumed(request, identity)
    run = Run(request.folder, requested_config(request), identity)
    run.refuse_taken_folder()
    return run


def _training_split(corpus: Corpus) -> Samples:
    if "train" not in corpus.splits:
        place, known = corpus.identity.place, ", ".join(corpus.splits)
        raise UsageError(f"store '{place}' has no split 'train', only: {known}")
    return corpus.splits["train"]


def _resumed(request: TrainRequest, identity: StoreIdentity) -> Run:
    run = Run.open(request.folder)
    if run.store.fingerprint != identity.fingerprint:
        raise Mismatch(
            f"run '{run.folder}' was begun on store {run.store.fingerprint[:12]} (then at "
            f"'{run.store.place}'), '{request.store}' is {identity.fingerprint[:12]}. Resume with "
            "the store of the run, or start a new run with --init."
        )
    if run.config.task != request.task:
        raise UsageError(f"'{run.folder}' is a run of task {run.config.task}, not {request.task}")
    config = _asked_again(request, run.config)
    differences = _differences(run.config.model_dump(), config.model_dump())
    if not differences:
        return run
    told = "; ".join(f"{k}={old} (now asked: {new})" for k, (old, new) in differences.items())
    fixed = [key for key in differences if not _may_change(key)]
    if fixed:
        raise UsageError(
            f"'{run.folder}' was begun with other settings: {told}. Resume without --recipe and "
            "key=value (keys of loop may change, but for ema, and workers), or start a new run."
        )
    _log.info("resumed with other settings of the loop: %s", told)
    return Run(run.folder, config, run.store)


def _may_change(key: str) -> bool:
    """Whether a setting may differ in the middle of a run: it decides how, not what."""
    return key == "workers" or (key.startswith("loop.") and key != "loop.ema")


def _asked_again(request: TrainRequest, config: RunConfig) -> RunConfig:
    """The configuration that a request describes for a run that has one: without a recipe, its own.

    Raises:
        UnknownName: no such recipe or key.
        UsageError: a value of the wrong kind.
    """
    if request.recipe is not None:
        return requested_config(request)
    own, origin = config.model_dump(mode="json"), str(request.folder / CONFIG)
    return make_config(type(config), own, request.overrides, origin=origin)


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Values before and after, by dotted key, where they differ."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found |= {f"{key}.{k}": pair for k, pair in _differences(before, after).items()}
        elif before != after:
            found[key] = before, after
    return found


def _note(trainer: Trainer, init: str | None) -> None:
    """Write environment.json and footprint.json, and tell what is about to run."""
    world, config = trainer.world, trainer.config
    is_cuda = world.device.type == "cuda"
    device = torch.cuda.get_device_name(world.device) if is_cuda else "cpu"
    trainer.run.note_environment(
        device=device,
        processes=world.size,
        threads=torch.get_num_threads(),
        precision=trainer.precision,
        deterministic=not is_cuda,
        init=init,
    )
    kept = footprint(trainer.train, config.data)
    trainer.run.note_footprint(kept)
    if trainer.task.reads_ranks and trainer.run.store.vocabulary.codebook is None:
        _log.info("the store has no codebook, so the id embedding is learnt from a random start")
    size = sum(p.numel() for p in trainer.model.parameters()) / 1e6
    _log.info(
        "%s on %s x %d, %s: %.1f M parameters, %d train images of %d bytes, %d steps of %d images",
        *(config.task, device, world.size, trainer.precision, size),
        *(kept.images, kept.bytes, trainer.steps, config.batch_size),
    )
    if policy := config.model_dump().get("augment"):
        _log.info("augment:\n%s", written(policy))
