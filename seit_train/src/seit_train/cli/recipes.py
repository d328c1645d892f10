"""`seit-train recipes`: the complete settings that come with the package."""

import json

import click

from seit_train.config import recipe_text
from seit_train.recipe_card import RecipeCard, read_card, recipe_cards


@click.command("recipes", epilog="Example: seit-train recipes cpu_tiny > mine.yaml")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the headers as JSON.")
def command(name: str | None, as_json: bool) -> None:
    """List the recipes with hours and expected metric, or print the one called NAME.

    What is printed is a start for a recipe of one's own. Every key of one can be changed on the
    command line that trains, as KEY=VALUE.
    """
    if as_json:
        cards = recipe_cards() if name is None else [read_card(recipe_text(name), name)]
        content = [card.as_json() for card in cards]
        click.echo(json.dumps(content if name is None else content[0], indent=1))
    elif name is not None:
        click.echo(recipe_text(name), nl=False)
    else:
        click.echo("\n".join(_lines(card) for card in recipe_cards()))


def _lines(card: RecipeCard) -> str:
    """A line to find it by, and what it costs and gives below."""
    return (
        f"{card.name:<24} {', '.join(card.tasks):<36} {card.title}\n"
        f"    hours     {card.hours or 'not measured'} ({card.hardware})\n"
        f"    expected  {card.expected}"
    )
