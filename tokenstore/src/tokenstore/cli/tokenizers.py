"""`tokenstore tokenizers`: what each tokenizer is, and whether its weights are here."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from tokenstore import registry
from tokenstore.errors import BrokenPlugin

if TYPE_CHECKING:
    from tokenstore.tokenizers.base import TokenizerCard

PACKAGE = "tokenstore.tokenizers"


@click.command("tokenizers", epilog="Example: tokenstore tokenizers pocket")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.pass_context
def command(context: click.Context, name: str | None, as_json: bool) -> None:
    """List the known tokenizers, or tell all about the one called NAME.

    Names of other packages that cannot be imported are named on stderr, with exit code 1.
    """
    if name is not None:
        card = _card(name)
        click.echo(json.dumps(_facts(card)) if as_json else "\n".join(_card_lines(card)))
        return
    cards, broken = [], []
    for known in registry.names(PACKAGE):
        try:
            cards.append(_card(known))
        except BrokenPlugin as error:
            broken.append(str(error))
    if as_json:
        click.echo(json.dumps([_facts(card) for card in cards]))
    else:
        click.echo("\n".join([_LINE.format(*_HEADING), *map(_line, cards)]))
    for sentence in broken:
        click.echo(sentence, err=True)
    context.exit(1 if broken else 0)


_HEADING = ("name", "stride", "images", "grid", "codes", "weights", "resized by")
_LINE = "{:<18} {:>6} {:>9} {:>7} {:>7}  {:<8}  {}"


def _card(name: str) -> "TokenizerCard":
    card: TokenizerCard = registry.find(PACKAGE, name).card(name)
    return card


def _facts(card: "TokenizerCard") -> dict[str, Any]:
    return {**asdict(card), "grid": _grid(card)}


def _grid(card: "TokenizerCard") -> list[int]:
    return [side // card.stride for side in card.default_size]


def _times(sides: tuple[int, ...] | list[int]) -> str:
    """`(256, 256) -> "256x256"`."""
    return "x".join(map(str, sides))


def _line(card: "TokenizerCard") -> str:
    sizes = (_times(card.default_size), _times(_grid(card)))
    here = "here" if card.available else "not here"
    return _LINE.format(
        card.name, card.stride, *sizes, card.codebook[0], here, card.preprocess
    ).rstrip()


def _card_lines(card: "TokenizerCard") -> list[str]:
    codes, dimension = card.codebook
    rows = [
        ("name", card.name),
        ("family", card.family),
        ("images", f"{_times(card.default_size)} by default, resized by {card.preprocess}"),
        ("grid", f"{_times(_grid(card))}, one code for {card.stride}x{card.stride} pixels"),
        ("codebook", f"{codes:,} codes of {dimension} numbers"),
        ("weights", f"{card.source} ({'here' if card.available else 'not here'})"),
        ("licence", card.licence),
    ]
    return [f"{label:<10}  {text}" for label, text in rows]
