"""Random and forged bytes on manifest, index, tables, vocabulary, columns and records; see fuzz.py.

A few draws in the core suite, thousands in `make test-all`; always in a process of its own, so that
a crash of the interpreter is a failure with a traceback.
"""

import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.hostile.fuzz import TARGETS


def fuzz(*words):
    ran = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "tests.hostile.fuzz", *map(str, words)],
        capture_output=True, text=True, check=False, timeout=300, cwd=ROOT,
    )  # fmt: skip
    assert ran.returncode == 0, f"exit {ran.returncode}\n{ran.stdout}\n{ran.stderr[-5000:]}"
    return ran.stdout.split()


def test_a_few_random_bytes_are_data_of_the_right_kind_or_our_errors():
    assert fuzz("--examples", 30) == list(TARGETS)


@pytest.mark.slow
@pytest.mark.timeout(320)
@pytest.mark.parametrize("target", TARGETS)
def test_thousands_of_random_bytes_are_data_of_the_right_kind_or_our_errors(target):
    assert fuzz(target, "--examples", 1500) == [target]
