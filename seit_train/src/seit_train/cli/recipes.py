"""`seit-train recipes`: the complete settings that come with the package."""

import click

from seit_train.config import parse_recipe, recipe_names, recipe_text


@click.command("recipes", epilog="Example: seit-train recipes cpu_tiny > mine.yaml")
@click.argument("name", required=False)
def command(name: str | None) -> None:
    """List the recipes, or print the one called NAME, as a start for one's own."""
    if name is not None:
        click.echo(recipe_text(name), nl=False)
        return
    for known in recipe_names():
        text = recipe_text(known)
        tasks = ", ".join(parse_recipe(text, known))
        click.echo(f"{known:<18} {tasks:<26} {text.splitlines()[0].lstrip('# ')}")
