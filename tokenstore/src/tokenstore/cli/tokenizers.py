"""`tokenstore tokenizers`: what each tokenizer is, and whether its weights are here."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from tokenstore import registry

if TYPE_CHECKING:
    from tokenstore.tokenizers.base import TokenizerCard

PACKAGE = "tokenstore.tokenizers"


@click.command("tokenizers", epilog="Example: tokenstore tokenizers pocket")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def command(name: str | None, as_json: bool) -> None:
    """List the known tokenizers, or tell all about the one called NAME."""
    names = registry.names(PACKAGE) if name is None else [name]
    cards = [registry.find(PACKAGE, known).card(known) for known in names]
    if as_json:
        facts = [_facts(card) for card in cards]
        click.echo(json.dumps(facts if name is None else facts[0]))
    elif name is None:
        click.echo("\n".join([_LINE.format(*_HEADING), *(_line(card) for card in cards)]))
    else:
        click.echo("\n".join(f"{label:<10}  {text}" for label, text in _card_lines(cards[0])))


_HEADING = ("name", "stride", "images", "grid", "codes", "weights are here")
_LINE = "{:<20} {:>6} {:>10} {:>8} {:>7}  {}"


def _facts(card: "TokenizerCard") -> dict[str, Any]:
    return {**asdict(card), "grid": _grid(card)}


def _grid(card: "TokenizerCard") -> list[int]:
    return [side // card.stride for side in card.default_size]


def _times(sides: tuple[int, ...] | list[int]) -> str:
    """`(256, 256) -> "256x256"`."""
    return "x".join(map(str, sides))


def _line(card: "TokenizerCard") -> str:
    here = "yes" if card.available else "no"
    sizes = (_times(card.default_size), _times(_grid(card)))
    return _LINE.format(card.name, card.stride, *sizes, card.codebook[0], here)


def _card_lines(card: "TokenizerCard") -> list[tuple[str, str]]:
    codes, dimension = card.codebook
    return [
        ("name", card.name),
        ("family", card.family),
        ("images", f"{_times(card.default_size)} by default, other multiples of {card.stride}"),
        ("grid", f"{_times(_grid(card))}, stride {card.stride}"),
        ("codebook", f"{codes:,} codes of {dimension} numbers"),
        ("weights", f"{card.source} ({'here' if card.available else 'not here'})"),
        ("licence", card.licence),
    ]
