"""A user's choice of a tokenizer: the options that several commands share, and loading by them.

`build`, `encode` and `roundtrip` choose a tokenizer freely: `tokenizer_options` make a
`TokenizerChoice`. Commands that work on a store take the one that made it, and only its weights can
lie elsewhere: `weights_options`. What the tokenizers are is the registry's business.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from tokenstore.errors import UsageError
from tokenstore.preprocess import RULES, Size

if TYPE_CHECKING:
    from tokenstore.tokenizers.base import Precision, Tokenizer

Command = Callable[..., Any]
Option = Callable[[Command], Command]

DEFAULT_TOKENIZER = "pocket"


class SizeOption(click.ParamType):
    """`"128" -> (128, 128)`, `"96x128" -> (96, 128)`: height, then width."""

    name = "N|HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Size:
        """Read one; raises UsageError where it is neither form."""
        del param, ctx
        numbers = str(value).lower().split("x")
        if len(numbers) not in (1, 2) or not all(number.isdecimal() for number in numbers):
            raise UsageError(f"--image-size '{value}' is neither N nor HxW; say 128 or 96x128")
        return int(numbers[0]), int(numbers[-1])


def weights_options(command: Command) -> Command:
    """Add `--weights` and `--config`."""
    options: list[Option] = [
        click.option(
            "--weights",
            metavar="FILE|URL",
            help="Weights of the tokenizer; else from its own place (`tokenstore tokenizers`).",
        ),
        click.option(
            "--config",
            metavar="YAML",
            help="Its architecture as published beside the weights, where they cannot tell it.",
        ),
    ]
    return _decorated(command, options)


def tokenizer_options(command: Command) -> Command:
    """Add `--tokenizer`, `--weights`, `--config`, `--preprocess`, `--image-size` and `--device`."""
    options: list[Option] = [
        click.option(
            "--tokenizer",
            metavar="NAME",
            help=f"Name of the tokenizer.  [default: {DEFAULT_TOKENIZER}]",
        ),
        weights_options,
        click.option(
            "--preprocess",
            type=click.Choice(list(RULES)),
            help="How images are resized; else by the tokenizer's own rule.",
        ),
        click.option(
            "--image-size",
            type=SizeOption(),
            metavar=SizeOption.name,
            help="Pixels of a tokenized image; else the tokenizer's own.",
        ),
        click.option(
            "--device",
            callback=lambda context, option, value: value or best_device(),
            help="torch device; cuda where there is one, else cpu.",
        ),
    ]
    return _decorated(command, options)


@dataclass(frozen=True)
class TokenizerChoice:
    """What the options say; None is the default of each."""

    tokenizer: str | None = None
    weights: str | None = None
    config: str | None = None
    preprocess: str | None = None  # name of a resize rule
    image_size: Size | None = None  # (H, W) in pixels
    device: str = "cpu"
    precision: "Precision" = "fp32"

    def load(self) -> "Tokenizer":
        """Load the tokenizer, and let it resize images as chosen.

        Raises:
            UnknownName: no such tokenizer, or no such resize rule.
            TokenizerError: its weights are missing, or it cannot take what was asked.
        """
        from tokenstore.tokenizers import load_tokenizer

        tokenizer = load_tokenizer(
            self.tokenizer or DEFAULT_TOKENIZER,
            self.weights,
            config=self.config,
            device=self.device,
            precision=self.precision,
        )
        tokenizer.prepare_by(self.preprocess, self.image_size)
        return tokenizer


def best_device() -> str:
    """`cuda` where there is one, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _decorated(command: Command, options: Sequence[Option]) -> Command:
    for option in reversed(options):  # decorators list options from the bottom up
        command = option(command)
    return command
