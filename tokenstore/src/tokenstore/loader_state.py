"""Where a loader stands: all that it needs to go on, as JSON-able values.

    epoch, position   of the next batch; position counts images of the epoch, so that a state fits
                      any world size and batch size
    seed, fingerprint what the order and the images come from: seed of the shuffle, and the store
    order             only where it is not the plain shuffle: its `order.description_of`
    worker            only inside a worker of a DataLoader: its number, and how many there are

A state comes from a file, so it is checked member by member. Who moves on is `loader`.
"""

from dataclasses import dataclass
from typing import Any, Self

from tokenstore.errors import Mismatch, UsageError

FULL = ""  # the description of the plain shuffle, which is left out
_MEMBERS = {"epoch": int, "position": int, "seed": int, "fingerprint": str}
_PLAIN = "'full'"
_SHOWN = 60  # characters of a wrong value

Worker = tuple[int, int]


@dataclass(frozen=True)
class LoaderState:
    """See the module."""

    epoch: int
    position: int
    seed: int
    fingerprint: str
    order: str = FULL
    worker: Worker | None = None

    def as_json(self) -> dict[str, Any]:
        """Four members as a rule."""
        state: dict[str, Any] = {name: getattr(self, name) for name in _MEMBERS}
        if self.order != FULL:
            state["order"] = self.order
        if self.worker is not None:
            state["worker"] = list(self.worker)
        return state

    @classmethod
    def from_json(cls, state: Any) -> Self:
        """What `as_json` gave.

        Raises:
            UsageError: this is no state of a loader, or one of a later version.
        """
        if not isinstance(state, dict) or not state.keys() >= _MEMBERS.keys():
            raise UsageError(
                f"{_shortened(state)} is no state of a loader: it needs {', '.join(_MEMBERS)}"
            )
        if unknown := sorted(map(str, state.keys() - _MEMBERS.keys() - {"order", "worker"})):
            raise UsageError(
                f"the loader state has '{unknown[0]}', which this version does not know: resume "
                "with the version of tokenstore that wrote it"
            )
        for name, kind in {**_MEMBERS, "order": str}.items():
            if type(state.get(name, FULL)) is not kind:
                raise _wrong(name, state[name])
        for name in ("epoch", "position"):
            if state[name] < 0:
                raise _wrong(name, state[name])
        worker = state.get("worker")
        if worker is not None:
            pair = type(worker) is list and [*map(type, worker)] == [int, int]
            if not pair or not 0 <= worker[0] < worker[1]:
                raise _wrong("worker", worker)
            worker = (worker[0], worker[1])
        return cls(**{**state, "worker": worker})

    def refuse_other(self, mine: "LoaderState", images: int) -> None:
        """Refuse to go on in another order than the run's.

        Args:
            mine: the state of the loader that is to go on.
            images: length of its epoch.

        Raises:
            Mismatch: store, seed, order or length of the epoch is another.
        """
        if self.fingerprint != mine.fingerprint:
            raise Mismatch(
                f"the loader state belongs to store {self.fingerprint[:12]}, this store is "
                f"{mine.fingerprint[:12]}. Resume with the store of the run, or start a new run."
            )
        if self.seed != mine.seed:
            raise Mismatch(
                f"the loader state has seed {self.seed}, this loader {mine.seed}: another "
                f"order. Make the loader with seed={self.seed} to resume."
            )
        if self.order != mine.order:
            raise Mismatch(
                f"the loader state has the order {self.order or _PLAIN}, this loader "
                f"{mine.order or _PLAIN}. Make the loader with the shuffle and sampler of the run "
                "to resume."
            )
        if self.position > images:
            raise Mismatch(
                f"the loader state stands at position {self.position} of an epoch, which has "
                f"{images} images here. Resume with the split and sampler of the run."
            )


def _wrong(member: str, value: object) -> UsageError:
    return UsageError(f"the loader state has {_shortened(value)} as its {member}")


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
