"""`@compiled`: a plain Python loop over arrays that becomes machine code at its first call.

Importing a module with such functions does not import numba, so commands that read no images start
fast. The machine code releases the GIL and is cached on disk beside the module.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def compiled(kernel: Kernel) -> Kernel:
    """Compile a function of arrays and numbers with numba, when it is first called."""

    @functools.cache
    def machine_code() -> Callable[..., Any]:
        import numba

        try:
            code: Callable[..., Any] = numba.njit(nogil=True, cache=True)(kernel)
        except RuntimeError:  # nowhere to write a cache: a read-only machine compiles each time
            code = numba.njit(nogil=True)(kernel)
        return code

    @functools.wraps(kernel)
    def call(*arguments: Any) -> Any:
        return machine_code()(*arguments)

    return call  # type: ignore[return-value]
