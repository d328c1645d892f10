"""A choice of a tokenizer: what is not chosen stays the tokenizer's own."""

import click
import pytest
from click.testing import CliRunner

from tests.toy_tokenizer import ToyTokenizer
from tokenstore import registry
from tokenstore.choice import SizeOption, TokenizerChoice, tokenizer_options, weights_options
from tokenstore.errors import TokenizerError, UnknownName, UsageError
from tokenstore.preprocess import RULES, Preprocess
from tokenstore.tokenizers.base import LoadRequest


class Squashing(ToyTokenizer):
    """The toy tokenizer with another resize rule and size of its own."""

    requests: list[LoadRequest] = []  # noqa: RUF012

    @classmethod
    def load(cls, request: LoadRequest) -> "Squashing":
        cls.requests.append(request)
        return cls(request.preprocess or Preprocess("squash", (24, 40)))


@pytest.fixture(autouse=True)
def squashing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find", lambda package, name: Squashing)


@pytest.mark.parametrize(
    ("rule", "size", "expected"),
    [
        (None, None, Preprocess("squash", (24, 40))),
        (None, (16, 16), Preprocess("squash", (16, 16))),
        ("center-crop-box", None, Preprocess("center-crop-box", (24, 40))),
        ("center-crop", (8, 64), Preprocess("center-crop", (8, 64))),
    ],
)
def test_rule_and_size_are_chosen_apart(
    rule: str | None, size: tuple[int, int] | None, expected: Preprocess
) -> None:
    assert TokenizerChoice(preprocess=rule, image_size=size).load().preprocessing == expected


def test_a_size_that_the_tokenizer_cannot_take_and_an_unknown_rule_are_refused() -> None:
    with pytest.raises(TokenizerError, match="multiples of 8, not 20x16"):
        TokenizerChoice(image_size=(20, 16)).load()
    with pytest.raises(UnknownName, match="'squish'. Did you mean squash"):
        TokenizerChoice(preprocess="squish").load()


def test_everything_chosen_reaches_the_tokenizer() -> None:
    TokenizerChoice("toy", "w", "c", device="cuda", precision="bf16").load()
    request = Squashing.requests[-1]
    assert (request.name, request.weights, request.config) == ("toy", "w", "c")
    assert (request.device, request.precision, request.preprocess) == ("cuda", "bf16", None)


def test_without_a_name_it_is_pocket() -> None:
    TokenizerChoice().load()
    assert Squashing.requests[-1].name == "pocket"


def test_sizes_are_one_number_or_height_and_width() -> None:
    read = SizeOption()
    assert read.convert("128", None, None) == (128, 128)
    assert read.convert("96X128", None, None) == (96, 128)
    for wrong in ("", "x", "-8", "8x8x8", "8.5"):
        with pytest.raises(UsageError, match="say 128 or 96x128"):
            read.convert(wrong, None, None)


def test_the_options_of_commands_make_a_choice_and_help_lists_every_rule() -> None:
    @click.command()
    @tokenizer_options
    def choose(**options: object) -> None:
        click.echo(str(TokenizerChoice(**options)))  # type: ignore[arg-type]

    words = ["--tokenizer", "toy", "--image-size", "8x16", "--device", "cpu"]
    shown = CliRunner().invoke(choose, words, catch_exceptions=False).stdout
    assert shown.strip() == str(TokenizerChoice("toy", image_size=(8, 16), device="cpu"))
    told = CliRunner().invoke(choose, ["--help"]).stdout
    assert all(rule in " ".join(told.split()) for rule in RULES)


def test_commands_on_a_store_choose_weights_and_config_only() -> None:
    @click.command()
    @weights_options
    def choose(**options: object) -> None:
        click.echo(sorted(options))

    assert CliRunner().invoke(choose, []).stdout.strip() == "['config', 'weights']"
