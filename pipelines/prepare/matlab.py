"""Tables that come as MATLAB files: ImageNet's devkit, Flowers and Cars. Read by scipy."""

import sys
from pathlib import Path
from typing import Any

import click


def read_matlab(file: Path) -> dict[str, Any]:
    """The variables of a .mat file; structs are numpy records, and sizes of 1 are gone.

    A missing scipy or an unreadable file ends the command with a sentence and exit code 2.
    """
    try:
        from scipy.io import loadmat
    except ImportError:
        click.echo(f"error: '{file}' is read by scipy: pip install scipy", err=True)
        sys.exit(2)
    try:
        variables: dict[str, Any] = loadmat(str(file), squeeze_me=True)
    except (OSError, ValueError) as error:
        click.echo(f"error: '{file}' cannot be read as a MATLAB file: {error}", err=True)
        sys.exit(2)
    return variables
