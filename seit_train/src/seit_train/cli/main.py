"""The `seit-train` command: finds `cli/VERB.py` by name, as `tokenstore` does.

The commands that train differ in their task only, so they are made here, from one mould. Nothing
imports torch before a command runs, so that `seit-train --help` is quick.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

import click

from seit_train import __version__, cli
from tokenstore.cli.main import Commands

if TYPE_CHECKING:
    from seit_train.launch import Outcome


class TrainCommands(Commands):
    """A group whose commands are the modules beside this one."""

    package: ClassVar[ModuleType] = cli


@click.group(
    cls=TrainCommands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: seit-train classify photos.tokenstore -o runs/first --recipe cpu_tiny",
)
@click.version_option(__version__, prog_name="seit-train")
def main() -> None:
    """Train vision models from the tokens of a store."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")  # on stderr
    if os.environ.get("RANK", "0") == "0":  # torchrun numbers the processes; one talks
        for package in ("seit_train", "tokenstore"):
            logging.getLogger(package).setLevel(logging.INFO)


_RUN_OPTIONS = (
    click.option(
        "-o", "--output", required=True, metavar="RUN", help="Folder that the run is written to."
    ),
    click.option(
        "--recipe",
        metavar="NAME|FILE",
        help="Settings to start from; `seit-train recipes` lists them.  [default: cpu_tiny]",
    ),
    click.option(
        "--init",
        metavar="RUN|FILE",
        help="Start from the weights of another run, or of a published DeiT, MAE or SeiT file.",
    ),
    click.option(
        "--resume", is_flag=True, help="Continue the run in RUN; begin it where there is none."
    ),
)

Remark = Callable[["Outcome", str], list[str]]  # lines of a report on a run and its store


def _run_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of every training, in the order of its help page."""
    for option in reversed(_RUN_OPTIONS):
        function = option(function)
    return function


def training_command(
    task: str,
    purpose: str,
    next_command: str,
    corpus: str = "STORE",
    remark: Remark | None = None,
) -> click.Command:
    """The command `seit-train TASK STORE -o RUN ...`.

    Args:
        task: name of the task and of the command.
        purpose: what the command does, for its help page.
        next_command: what to do with the run afterwards, with {store} and {run} to fill in.
        corpus: what it is trained on, as its help page calls it.
        remark: what else there is to say of a run that has ended.
    """
    example = {"STORE": "photos.tokenstore", "IMAGES": "photos"}[corpus]

    @click.command(
        task,
        help=f"{purpose}\n\nSettings of the recipe are changed with KEY=VALUE, dotted keys and "
        "YAML values, such as optim.weight_decay=0.1. Under torchrun, start it with `python -m "
        "seit_train`.",
        epilog=f"Example: seit-train {task} {example} -o runs/{task} epochs=20",
    )
    @click.argument("store", metavar=corpus)
    @click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
    @_run_options
    def command(
        store: str,
        overrides: tuple[str, ...],
        output: str,
        recipe: str | None,
        init: str | None,
        resume: bool,
    ) -> None:
        from seit_train.launch import TrainRequest, train

        request = TrainRequest(task, store, Path(output), recipe, overrides, init, resume)
        outcome = train(request)
        if outcome.is_first:
            click.echo(training_report(outcome, next_command.format(store=store, run=output)))
            for line in [] if remark is None else remark(outcome, store):
                click.echo(line)

    return command


def training_report(outcome: "Outcome", next_command: str) -> str:
    """Where it is, how good it is, how long it took, what comes next."""
    task = outcome.run.task
    best = "no val split to judge by" if outcome.best is None else f"{outcome.best:.4f}"
    ended = "" if outcome.trained else " (it had ended before: nothing was left to train)"
    return "\n".join(
        [
            f"run    {outcome.run.folder}{ended}",
            f"best   {task.best_metric} {best}",
            f"took   {outcome.seconds:,.0f} s for {outcome.steps:,} steps",
            f"next   {next_command}",
        ]
    )
