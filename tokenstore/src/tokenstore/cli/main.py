"""The `tokenstore` command: finds `cli/VERB.py` by name, and turns errors into exit codes.

Each command's file defines `command`. None of them imports torch before it runs, so that
`tokenstore --help` is quick. Exit codes: 0 done, 1 findings, 2 wrong usage or any other error,
130 interrupted, 141 the reader of our output went away.
"""

import importlib
import os
import pkgutil
import sys
import warnings
from collections.abc import Sequence

import click

from tokenstore import cli
from tokenstore.errors import TokenstoreError, UnknownName

ERROR, INTERRUPTED, PIPE_CLOSED = 2, 130, 141


class Commands(click.Group):
    """A group whose commands are the modules beside this one."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, sorted."""
        modules = pkgutil.iter_modules(cli.__path__)
        return sorted(m.name.replace("_", "-") for m in modules if m.name != "main")

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        """The command called `name`.

        Raises:
            UnknownName: there is none; the message lists the known ones.
        """
        known = self.list_commands(ctx)
        if name not in known:
            raise UnknownName("command", name, known)
        module = importlib.import_module(f"{cli.__name__}.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: tokenstore build photos/ -o photos.tokenstore",
)
@click.version_option(package_name="tokenstore", prog_name="tokenstore")
def tokenstore() -> None:
    """Image corpora as VQ tokens: build a store once, read it for ever."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    # Pillow warns of each odd EXIF block and large picture; a build reports what it rejects.
    warnings.filterwarnings("ignore", module="PIL")
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit code; errors go to stderr as one or two sentences."""
    try:
        code = tokenstore.main(arguments, prog_name="tokenstore", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return ERROR
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; the same command continues what can be continued", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # Else the interpreter would complain of the pipe once more while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (TokenstoreError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        return ERROR
    return code if isinstance(code, int) else 0
