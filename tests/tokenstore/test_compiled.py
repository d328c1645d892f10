"""Kernels become machine code when they are first called, and not before."""

import subprocess
import sys

from tokenstore.compiled import compiled


def test_a_module_of_kernels_does_not_load_numba():
    code = (
        "import sys, tokenstore.checks, tokenstore.codecs.escape; sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_kernel_keeps_its_name_and_docstring():
    @compiled
    def double(number):
        """Twice the number."""
        return 2 * number

    assert (double.__name__, double.__doc__) == ("double", "Twice the number.")
    assert double(21) == 42


def test_a_kernel_without_a_place_for_its_cache_still_runs():
    names = {}
    exec("def half(number):\n    return number / 2", names)
    assert compiled(names["half"])(5) == 2.5
