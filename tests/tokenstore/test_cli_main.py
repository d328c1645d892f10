"""The frame of the command line: commands by file name, exit codes, errors as sentences."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from tokenstore.cli.main import INTERRUPTED, PIPE_CLOSED, Commands, main
from tokenstore.errors import BuildError, Interrupted


def raising(error: BaseException) -> Commands:
    @click.group(cls=Commands, invoke_without_command=True)
    def program() -> None:
        raise error

    return program


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (BuildError("the output is taken. Choose another."), 2, "Error: the output is taken."),
        (OSError(28, "No space left on device", "s"), 2, "No space left on device"),
        (click.UsageError("no such option"), 2, "Error: no such option"),
        (KeyboardInterrupt(), INTERRUPTED, "interrupted"),
        (Interrupted("stopped after step 3"), INTERRUPTED, "stopped after step 3"),
        (ModuleNotFoundError("x", name="torch"), 2, "needs torch; pip install 'tokenstore[build]'"),
    ],
)
def test_errors_become_a_sentence_and_an_exit_code(
    error: BaseException, code: int, text: str
) -> None:
    result = CliRunner().invoke(raising(error), [])
    assert result.exit_code == code
    assert text in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_a_defect_of_ours_is_not_disguised() -> None:
    result = CliRunner().invoke(raising(ZeroDivisionError()), [])
    assert isinstance(result.exception, ZeroDivisionError)


def test_an_unknown_command_names_the_nearest() -> None:
    result = CliRunner().invoke(main, ["biuld"])
    assert result.exit_code == 2
    assert "unknown command 'biuld'. Did you mean build?" in result.stderr


def test_every_command_file_is_a_command_of_its_name() -> None:
    context = click.Context(main)
    names = main.list_commands(context)
    assert {"build", "info", "show", "verify"} <= set(names)
    assert all(main.get_command(context, name).name == name for name in names)


def test_the_version_is_that_of_the_distribution() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("tokenstore, version ")


def test_help_loads_neither_torch_nor_a_compiler() -> None:
    program = (
        "import sys; from tokenstore.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numba', 'PIL', 'webdataset', 'pyarrow'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines()[-1] == "[]"


def test_a_closed_pipe_ends_quietly() -> None:
    program = "from tokenstore.cli.main import main; main(['build', '--help'])"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == PIPE_CLOSED
