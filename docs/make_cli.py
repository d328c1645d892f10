"""Writes docs/cli.md: the help page of every command, as the command itself prints it.

python -m docs.make_cli            write the file
python -m docs.make_cli --check    exit 1 if it is not what would be written
"""

from collections.abc import Iterator
from pathlib import Path

import click

from docs.written import written_by
from seit_train.cli.main import main as seit_train
from tokenstore.cli.main import main as tokenstore

PAGE = Path(__file__).with_name("cli.md")
WIDTH = 96
HEADER = """\
# Commands

Written by `make docs` from the `--help` of each command; do not edit. Standard output is data,
progress and logs go to standard error, `--json` gives one JSON object on everything that reports.
Exit code 0: done. 1: findings. 2: wrong usage, or an error, told in one or two sentences.
"""


def command_tree() -> Iterator[tuple[str, click.Command, click.Context]]:
    """Every command of both programs with its full name and a context to ask for its help."""
    for name, program in (("tokenstore", tokenstore), ("seit-train", seit_train)):
        yield from _below(program, _context(program, name, None))


def page() -> str:
    """The whole text of docs/cli.md."""
    parts = [HEADER]
    for name, command, context in command_tree():
        level = "##" if context.parent is None else "###"
        parts.append(f"{level} {name}\n\n```\n{command.get_help(context).rstrip()}\n```\n")
    return "\n".join(parts)


def _below(
    command: click.Command, context: click.Context
) -> Iterator[tuple[str, click.Command, click.Context]]:
    yield context.command_path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from _below(child, _context(child, name, context))


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    settings = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    return click.Context(command, info_name=name, parent=parent, **settings)


main = written_by(PAGE, page)

if __name__ == "__main__":
    main()
