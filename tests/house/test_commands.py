"""The commands document themselves, and docs/cli.md is what they say."""

import subprocess
import sys
from pathlib import Path

import pytest

from docs.make_cli import command_tree

ROOT = Path(__file__).parents[2]
TREE = {name: (command, context) for name, command, context in command_tree()}
EXPECTED = {
    "tokenstore append",
    "tokenstore merge",
    "tokenstore convert",
    "tokenstore bench",
    "tokenstore build",
    "tokenstore export",
    "tokenstore import",
    "tokenstore info",
    "tokenstore report",
    "tokenstore verify",
    "tokenstore show",
    "tokenstore tokenizers",
    "tokenstore fit",
    "seit-train mtm",
    "seit-train classify",
    "seit-train evaluate",
    "seit-train models",
    "seit-train sample",
}


def test_the_commands_that_the_design_promises_exist():
    assert set(TREE) >= EXPECTED


@pytest.mark.parametrize("name", sorted(TREE))
def test_every_help_page_ends_with_an_example_of_its_command(name):
    command, context = TREE[name]
    assert command.help, f"{name} has no help"
    last = command.get_help(context).rstrip().rpartition("\n\n")[2]
    assert last.strip().startswith(f"Example: {name}"), "the help page ends otherwise"


@pytest.mark.parametrize("name", sorted(TREE))
def test_every_option_says_what_it_is_for(name):
    command, _ = TREE[name]
    silent = [
        option.opts[-1]
        for option in command.params
        if option.param_type_name == "option" and not option.help
    ]
    assert silent == []


def test_the_page_of_commands_is_fresh():
    """In a process of its own: click remembers help options that other tests have made."""
    command = [sys.executable, "-m", "docs.make_cli", "--check"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
