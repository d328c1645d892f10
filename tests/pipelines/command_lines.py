"""Command lines are held against the commands themselves: options, values, recipes and settings."""

import copy
from pathlib import Path

import click

from seit_train.cli.main import main as seit_train
from tokenstore.cli.main import main as tokenstore


def parsed(words):
    """The options and arguments of one of our commands; any that it does not have fail."""
    group = {"tokenstore": tokenstore, "seit-train": seit_train}[words[0]]
    command = group.get_command(click.Context(group), words[1])
    assert command is not None, f"there is no {words[0]} {words[1]}"
    return parsed_by(command, words[2:])


def parsed_by(command, words):
    """The same of a click command and the words behind its name, by click; files need not exist."""
    command = copy.copy(command)
    command.params = [_without_files(parameter) for parameter in command.params]
    context = click.Context(command, info_name=command.name)
    command.parse_args(context, list(words))
    return context.params


def _without_files(parameter):
    parameter = copy.copy(parameter)
    parameter.callback = None
    if isinstance(parameter.type, click.Path):
        parameter.type = click.STRING
    return parameter


def check_settings(task, values):
    """The recipe has a section for the task, and every KEY=VALUE is one of its settings."""
    from seit_train.launch import TrainRequest, requested_config

    corpus = values.get("store") or values.get("images")
    out, overrides = Path(values["output"]), tuple(values.get("overrides") or ())
    recipe = values.get("recipe")
    requested_config(TrainRequest(task, corpus, out, recipe, overrides, None, True))
