"""Which names a checkpoint's pickle may hold: a policy, no defence.

Nothing that a pickle names is ever imported or called (machine.py), so that none could do harm.
Still a name that has no business in a checkpoint, such as `os.system`, is refused wherever it
stands: such a file was made to do harm elsewhere, and its tensors deserve no trust either.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from tokenstore.errors import WeightsError

PYTHON2_NAMES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
PYTHON2_MODULES = {"commands", "popen2", "cPickle", "urllib2", "os2", "ce", "thread", "exceptions"}
STANDARD_MODULES = sys.stdlib_module_names | PYTHON2_MODULES

# What checkpoints do hold of the standard library: containers, and settings of a training run.
HARMLESS = {
    "builtins": {
        *("set", "frozenset", "list", "dict", "tuple", "slice", "range", "object", "complex"),
        *("bool", "int", "float", "str", "bytes", "bytearray", "Ellipsis"),
    },
    "collections": {"OrderedDict", "defaultdict", "Counter", "deque"},
    "argparse": {"Namespace"},
    "types": {"SimpleNamespace"},
    "pathlib": {"Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
    "pathlib._local": {"Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
    "datetime": {"datetime", "date", "time", "timedelta", "timezone"},
    "decimal": {"Decimal"},
    "fractions": {"Fraction"},
    "uuid": {"UUID"},
    "typing": {"Any"},
    "functools": {"partial"},
    "copyreg": {"_reconstructor"},
    "_codecs": {"encode"},  # numpy's scalars come as text that is to be encoded
}

# Functions by name that a checkpoint may have called: their results are data that nobody reads.
INERT_CALLS = {
    *("torch.device", "torch.serialization._get_layout", "numpy.dtype", "numpy.ndarray"),
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),
    *("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"),
}
INERT_CALLS_BEGIN = (
    "torch._utils._rebuild_",  # sparse, quantised and other tensors
    "numpy.random._pickle.",  # states of random generators
    "numpy.random.bit_generator.",
)


@dataclass(frozen=True)
class Global:
    """A class, function or constant that a pickle names; only the name exists here."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def checked_global(module: str, name: str, file: Path) -> Global:
    """A name as a record.

    Raises:
        WeightsError: it is of the standard library, and not among what checkpoints do hold; or it
            is no plain name.
    """
    module = PYTHON2_NAMES.get(module, module)
    if name in HARMLESS.get(module, ()):
        return Global(module, name)
    parts = name.split(".")
    odd = not all(part.isidentifier() for part in [*module.split("."), *parts])
    hidden = any(part.startswith("__") and part.endswith("__") for part in parts)
    roots = {module.partition(".")[0], *(parts[:1] if len(parts) > 1 else ())}
    if odd or hidden or roots & STANDARD_MODULES:
        known_as = f" (os.{name})" if module in ("posix", "nt") else ""
        shown = ascii(f"{module[:80]}.{name[:80]}")[1:-1]
        raise _refused(file, f"refers to {shown}{known_as}")
    return Global(module, name)


def check_call(function: Global, file: Path) -> None:
    """Let a file make objects of classes, and call the few functions that make data.

    Raises:
        WeightsError: it calls another function.
    """
    is_class = function.name.rpartition(".")[2].lstrip("_")[:1].isupper()
    makes_data = str(function) in INERT_CALLS or str(function).startswith(INERT_CALLS_BEGIN)
    if not (is_class or makes_data or function.module in HARMLESS):
        raise _refused(file, f"calls {function}")


def _refused(file: Path, what: str) -> WeightsError:
    return WeightsError(
        f"'{file}' {what}, which has no business in a checkpoint: the file may be made to run "
        "code. Nothing of it was run; get the weights from a source that you trust."
    )
