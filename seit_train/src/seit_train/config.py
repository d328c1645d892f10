"""Configuration: the settings that every run has, and the way from recipe and overrides to them.

`key=value` overrides from the command line are laid over a section of a recipe (see `recipe`), and
the result is checked as a whole by pydantic before anything else happens. Tasks add their own keys
by subclassing `RunConfig` beside their code. What the keys of a task mean, and whether they fit a
store, is the task's business.
"""

import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from seit_train.recipe import parse_yaml
from tokenstore.cache import CACHE_BYTES
from tokenstore.errors import UnknownName, UsageError

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """A group of settings: immutable, and a key that it does not have is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class OptimConfig(Settings):
    """How the weights move. Rates and warm-up are those of the whole (global) batch.

    Attributes:
        betas: of AdamW.
        momentum: of SGD (Nesterov).
        weight_decay: not applied to norms, biases, positions, class and mask tokens.
        schedule: shape of the rate after the warm-up: from `lr` to `min_lr`, or constant.
        warmup_epochs: epochs of linear warm-up; `warmup_steps` says it in steps instead.
        clip_norm: largest L2 norm of the whole gradient; null means no clipping.
        layer_decay: factor of the rate from each layer to the one before it; null means none.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    betas: tuple[Share, Share] = (0.9, 0.999)
    momentum: Share = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    schedule: Literal["cosine", "constant", "poly"] = "cosine"
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    min_lr: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None


class LoopConfig(Settings):
    """How the loop runs; apart from `ema` and `accumulate`, none of it is meant to change results.

    Attributes:
        precision: auto means bf16 where the device has bf16 instructions, else fp32.
        compile: auto means `torch.compile` on cuda only.
        residency: where the tokens live while training, see `tokenstore.loader`.
        log_every: steps from one line of metrics to the next.
        eval_every_epochs: epochs from one evaluation (and checkpoint) to the next.
        save_every_epochs: epochs from one checkpoint to the next; more where epochs take seconds.
        ema: decay of a moving average of the weights, which is then what is evaluated and kept as
            `model.safetensors`; null means none.
        accumulate: parts in which a step's batch goes through the model, to save memory. The same
            product of processes and parts draws the same augmentations.
    """

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    residency: Literal["auto", "stream", "ram", "device"] = "auto"
    log_every: Positive = 50
    eval_every_epochs: Annotated[float, Field(gt=0)] = 1.0
    save_every_epochs: Annotated[float, Field(gt=0)] = 1.0
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    accumulate: Positive = 1


class MixedIn(Settings):
    """One more store to train on.

    Attributes:
        store: folder or URL.
        weight: how often its images come for each one of the run's own store.
    """

    store: str
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


class ReplayConfig(Settings):
    """Continual learning with a memory; an epoch of such a run is a task, see `seit_train.replay`.

    Attributes:
        memory: bytes of what is remembered: records of tokens, or files of pictures.
        passes: over the images of each task.
        share: of each batch that is drawn from the memory.
    """

    memory: Annotated[int, Field(ge=0)]
    passes: Positive = 1
    share: Annotated[float, Field(ge=0, lt=1)] = 0.5


class DataConfig(Settings):
    """Which images of the train split a run sees, how often, and how they are read.

    Attributes:
        fraction: share of the train split, each class in proportion, the same in every epoch; the
            limited-data runs of the papers, which keep the number of steps (`steps=N`).
        fraction_seed: chooses the share, so that runs of several `seed` can share it.
        scores: CSV file of a score for each key; the fraction is then of the images with the
            highest ones, e.g. C-scores.
        sampling: shuffled, or class-balanced: every class equally often; or one-view: of a store
            with several views an image, one of each in an epoch, in the next epoch another.
        repeats: rows of a batch that show the same image, each augmented anew.
        shuffle: over the whole split, or shards: a few of them at a time, for a store that comes
            over a network.
        replay: classes in tasks, one after the other, with a memory; null means none.
        mix: more stores, whose train splits come in exact proportion to their weights; the run's
            own store has weight 1.
        cache: folder on this machine's disk for the shards of such a store; null means none.
        cache_bytes: what the cache holds at most.
    """

    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    fraction_seed: int = 0
    scores: str | None = None
    sampling: Literal["shuffled", "class-balanced", "one-view"] = "shuffled"
    repeats: Positive = 1
    shuffle: Literal["full", "shards"] = "full"
    replay: ReplayConfig | None = None
    mix: tuple[MixedIn, ...] = ()
    cache: str | None = None
    cache_bytes: Positive = CACHE_BYTES

    @model_validator(mode="after")
    def _one_order(self) -> Self:
        if self.scores is not None and self.fraction == 1:
            raise ValueError("data.scores chooses a share of the images: say data.fraction, too")
        if self.sampling == "class-balanced" and self.shuffle == "shards":
            raise ValueError(
                "classes cannot be balanced a few shards at a time: leave out data.shuffle=shards "
                "or data.sampling=class-balanced"
            )
        if self.mix and (
            self.fraction < 1 or (self.sampling, self.shuffle) != ("shuffled", "full")
        ):
            raise ValueError(
                "a mixture of stores has an order of its own: leave out data.mix, or else "
                "data.fraction, data.sampling and data.shuffle"
            )
        if self.replay is not None and (
            self.fraction < 1
            or (self.sampling, self.shuffle, self.repeats) != ("shuffled", "full", 1)
            or self.mix
        ):
            raise ValueError(
                "tasks with a memory have an order of their own: leave out data.replay, or else "
                "data.fraction, data.sampling, data.shuffle, data.repeats and data.mix"
            )
        if self.sampling == "one-view" and (self.shuffle == "shards" or self.fraction < 1):
            raise ValueError(
                "one view of each image is drawn from the whole split: leave out "
                "data.shuffle=shards and data.fraction, or data.sampling=one-view"
            )
        return self


class RunConfig(Settings):
    """What every run has; `task` comes from the command, the rest from recipe and overrides.

    Attributes:
        epochs: length of the run in passes over the train split; or else `steps`.
        batch_size: images of one optimizer step, over all processes.
        lr: highest learning rate, final: no scaling by batch size happens anywhere.
    """

    task: str
    epochs: Annotated[float, Field(gt=0)] | None = None
    steps: Positive | None = None
    batch_size: Positive
    lr: Annotated[float, Field(gt=0)]
    seed: int = 0
    optim: OptimConfig = OptimConfig()
    loop: LoopConfig = LoopConfig()
    data: DataConfig = DataConfig()

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(
                f"exactly one of epochs and steps says how long a run is, got epochs="
                f"{self.epochs} and steps={self.steps}"
            )
        if self.data.replay is not None and (self.epochs is None or self.epochs % 1):
            raise ValueError(
                "with data.replay an epoch is a task, so epochs is a whole number, got epochs="
                f"{self.epochs}"
            )
        return self


AnyConfig = TypeVar("AnyConfig", bound=RunConfig)


def make_config(
    kind: type[AnyConfig], section: Mapping[str, Any], overrides: Sequence[str] = (), *, origin: str
) -> AnyConfig:
    """The complete configuration of a run.

    Args:
        kind: the task's configuration class.
        section: the recipe's section for this task.
        overrides: `key=value` with dotted keys and YAML values, later ones winning.
        origin: what to call the recipe in messages.

    Raises:
        UnknownName: a key that the configuration does not have; the nearest are listed.
        UsageError: an override that is no `key=value`, or a value of the wrong kind.
    """
    settings = _merged({}, section)
    asked = set()
    for override in overrides:
        key, value = _parse_override(override)
        _assign(settings, key, value)
        asked.add(".".join(key))
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        raise _explain(error, kind, origin, asked) from None


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy of `base` with the keys of `over` laid over it."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        if isinstance(value, Mapping):
            value = _merged(below if isinstance(below, dict) else {}, value)
        result[key] = value
    return result


def _parse_override(override: str) -> tuple[list[str], Any]:
    """`optim.lr=1e-3` -> (["optim", "lr"], 0.001)."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UsageError(f"'{override}' is no key=value override, such as optim.weight_decay=0.05")
    try:
        return key.split("."), parse_yaml(text)
    except ValueError as error:
        raise UsageError(f"the value of '{override}' is not YAML: {error}") from error


# Settings that say the same thing: asking for one takes back what the recipe says with the others.
_TAKES_BACK = {"steps": ("epochs",), "epochs": ("steps",), "size": ("width", "depth", "heads")}


def _assign(settings: dict[str, Any], key: Sequence[str], value: Any) -> None:
    """Set one dotted key, e.g. `model.size`, and take back what it replaces in its group."""
    group = settings
    for name in key[:-1]:
        below = group.get(name)
        group[name] = dict(below) if isinstance(below, dict) else {}
        group = group[name]
    for other in _TAKES_BACK.get(key[-1], ()) if value is not None else ():
        group.pop(other, None)
    group[key[-1]] = value


def _explain(
    error: ValidationError, kind: type[RunConfig], origin: str, asked: Iterable[str]
) -> UsageError:
    """The first thing wrong with a configuration, unknown keys before everything else."""
    problems = sorted(error.errors(), key=lambda p: p["type"] != "extra_forbidden")
    first = problems[0]
    place = ".".join(str(part) for part in first["loc"])
    is_asked = any(f"{place}.".startswith(f"{key}.") for key in asked)
    source = "what was given as KEY=VALUE" if is_asked else f"recipe '{origin}'"
    if first["type"] == "extra_forbidden":
        return UnknownName("recipe key", place, _dotted_keys(kind), f"It stands in {source}.")
    if first["type"] == "missing":
        return UsageError(f"recipe '{origin}' lacks the key {place}. Add {place}=VALUE.")
    got = f"{place} = {first['input']!r}: " if place else ""
    return UsageError(f"{source}: {got}{first['msg'].removeprefix('Value error, ')}")


def _dotted_keys(kind: type[BaseModel], prefix: str = "") -> Iterable[str]:
    """All keys of a configuration class, with those of its groups dotted."""
    for name, field in kind.model_fields.items():
        yield prefix + name
        for group in _groups_in(field.annotation):
            yield from _dotted_keys(group, f"{prefix}{name}.")


def _groups_in(annotation: Any) -> Iterable[type[BaseModel]]:
    """`OptimConfig | None` -> OptimConfig. Lists and mappings have keys of their own making."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for member in typing.get_args(annotation):
            yield from _groups_in(member)
