"""Command lines are held against the commands themselves: options, values, recipes and settings."""

from pathlib import Path

import click

from seit_train.cli.main import main as seit_train
from tokenstore.cli.main import main as tokenstore

UNSET = getattr(click.core, "UNSET", None)  # what click gives for an argument not given


def parsed(words):
    """The options and arguments of one of our commands; any that it does not have fail."""
    group = {"tokenstore": tokenstore, "seit-train": seit_train}[words[0]]
    command = group.get_command(click.Context(group), words[1])
    context = click.Context(command, info_name=words[1])
    values, extra, _ = command.make_parser(context).parse_args(list(words[2:]))
    assert extra == [], words
    for parameter in command.params:
        value = values.get(parameter.name)
        if isinstance(parameter.type, click.Choice | click.IntRange) and isinstance(value, str):
            parameter.type.convert(value, parameter, context)
        if parameter.required:
            assert values.get(parameter.name) not in (None, UNSET), (parameter.name, words)
    return {key: value for key, value in values.items() if value is not UNSET}


def check_settings(task, values):
    """The recipe has a section for the task, and every KEY=VALUE is one of its settings."""
    from seit_train.launch import TrainRequest, requested_config

    corpus = values.get("store") or values.get("images")
    out, overrides = Path(values["output"]), tuple(values.get("overrides", ()))
    requested_config(TrainRequest(task, corpus, out, values["recipe"], overrides, None, True))
