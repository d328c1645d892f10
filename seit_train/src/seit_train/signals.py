"""Signals: Ctrl-C and SIGTERM become a request that the loop honours at its next step.

A scheduler's SIGTERM and a person's Ctrl-C both mean "keep what you have and stop". A Ctrl-C after
that stops at once, as it would without this file. A second SIGTERM does not: where SLURM ends a
job, each process has one from SLURM and a tenth of a second later, while it saves, torchrun's own.
"""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether somebody has asked to stop since the context was entered."""

    def __init__(self) -> None:
        """Nobody has asked yet."""
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python forbids it
            self._before = {number: signal.signal(number, self._ask) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, self._before[signal.SIGINT])
