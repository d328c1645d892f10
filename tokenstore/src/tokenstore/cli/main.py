"""The `tokenstore` command: finds `cli/VERB.py` by name, and turns errors into exit codes.

Each command's file defines `command`. None of them imports torch before it runs, so that
`tokenstore --help` is quick. Exit codes: 0 done, 1 findings, 2 wrong usage or any other error,
130 interrupted, 141 the reader of our output went away, 143 ended by SIGTERM.
"""

import contextlib
import importlib
import os
import pkgutil
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from types import FrameType, ModuleType
from typing import Any, ClassVar

import click

from tokenstore import __version__, cli
from tokenstore.errors import Interrupted, TokenstoreError, UnknownName

ERROR, INTERRUPTED, PIPE_CLOSED, TERMINATED = 2, 130, 141, 143


class Terminated(KeyboardInterrupt):
    """A scheduler asked the command to end; it ends as by Ctrl-C, with another exit code."""


class Refused(click.ClickException):
    """Any error that a user can meet, as click prints it."""

    exit_code = ERROR


class Commands(click.Group):
    """A group whose commands are the modules beside this one, and whose errors are sentences.

    Attributes:
        package: where the commands are; the trainer's command line names its own.
    """

    package: ClassVar[ModuleType] = cli

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, sorted."""
        modules = pkgutil.iter_modules(self.package.__path__)
        return sorted(m.name.replace("_", "-") for m in modules if m.name != "main")

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        """The command called `name`.

        Raises:
            UnknownName: there is none; the message lists the known ones.
        """
        known = self.list_commands(ctx)
        if name not in known:
            raise UnknownName("command", name, known)
        module = importlib.import_module(f"{self.package.__name__}.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what it refuses becomes a sentence and an exit code, no traceback."""
        # Torch's threads shall spin a moment while they wait for each other, and then sleep: for
        # ever, two of them on shared cores crawl; never, they cost a third (docs/log.md).
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        try:
            with _sigterm_as_exception():
                result = super().invoke(ctx)
                sys.stdout.flush()
        except BrokenPipeError:
            # Else the interpreter would complain of the pipe once more while it shuts down.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(PIPE_CLOSED)
        except Terminated:
            click.echo(
                "ended by SIGTERM; the same command continues what can be continued", err=True
            )
            ctx.exit(TERMINATED)
        except KeyboardInterrupt:
            click.echo("interrupted; the same command continues what can be continued", err=True)
            ctx.exit(INTERRUPTED)
        except Interrupted as error:
            click.echo(str(error), err=True)
            ctx.exit(INTERRUPTED)
        except ModuleNotFoundError as error:
            raise Refused(f"this needs {error.name}; pip install 'tokenstore[build]'") from error
        except (TokenstoreError, OSError) as error:
            raise Refused(str(error)) from error
        return result


@contextlib.contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    """Let SIGTERM unwind the command, so that what it holds is put away."""
    if threading.current_thread() is not threading.main_thread():  # there Python forbids it
        yield
        return
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise Terminated


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: tokenstore build photos/ -o photos.tokenstore",
)
@click.version_option(__version__, prog_name="tokenstore")
def main() -> None:
    """Image corpora as VQ tokens: build a store once, read it for ever."""
    # Pillow warns of each odd EXIF block and large picture; a build reports what it rejects.
    warnings.filterwarnings("ignore", module="PIL")
