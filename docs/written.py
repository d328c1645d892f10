"""A page of docs/ that a program writes: written, or compared with what would be written."""

import sys
from collections.abc import Callable
from pathlib import Path

import click


def written_by(file: Path, page: Callable[[], str]) -> click.Command:
    """`python -m docs.make_cli [--check]`, for one page."""

    @click.command(help=f"Write docs/{file.name}.")
    @click.option("--check", is_flag=True, help="Compare only; exit 1 if the file is not fresh.")
    def main(check: bool) -> None:
        text = page()
        if not check:
            file.write_text(text, encoding="utf-8")
        elif not file.exists() or file.read_text(encoding="utf-8") != text:
            click.echo(f"{file.name} is not what the sources say. Run `make docs`.", err=True)
            sys.exit(1)

    return main
