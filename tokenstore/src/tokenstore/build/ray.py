"""The engine of a Ray cluster: on every GPU, or node without one, an actor that keeps the model.

The driver holds a list of parts and gives each idle actor a few; whatever dies, its parts go to
somebody else, and since a part's commit is atomic, doing it twice does no harm. Actors are bound to
their nodes and leave a core of each free, and work waits only for actors that have started, so
neither a dead node nor one that cannot start starves the rest. Nodes that join get actors too. The
plan, the parts and the images must be reachable under the same paths from all nodes.
"""

import contextlib
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tokenstore.build.engine import Job, RejectWatch, Running
from tokenstore.build.plan import Slot, differences, locked_versions
from tokenstore.build.stored_plan import read_plan
from tokenstore.build.tokenize import PartReport, Workbench, finished_part, tokenize_parts
from tokenstore.build.workers import decoding_pool
from tokenstore.errors import BuildError, UsageError
from tokenstore.storage import Storage, open_storage

if TYPE_CHECKING:
    from tokenstore.sources.base import Source
    from tokenstore.tokenizers.base import Tokenizer

MOST_PARTS = 4  # that an actor gets at once: it decodes the next while it encodes one
ATTEMPTS = 4  # a part that has killed this many actors is at fault itself
SECONDS_BETWEEN_LOOKS = 2.0
PATIENCE = 300.0  # seconds without any actor


class Desk(NamedTuple):
    """Where an actor may work: a node, and what it takes of it."""

    node: str
    place: int
    cores: int
    gpus: int


class Making(NamedTuple):
    """What of a job travels to the actors, who load the tokenizer themselves."""

    source: "Source"
    load_on: "Callable[[str], Tokenizer]"


@dataclass
class Encoder:
    """What runs in an actor: the tokenizer and the workers, kept from part to part."""

    making: Making
    staging_url: str
    folder: str
    desk: Desk
    bench: Workbench = field(init=False, repr=False)  # Ray prints an actor before it is ready

    def ready(self) -> list[PartReport]:
        """Load everything, from the files that all nodes see; no part is done yet.

        Not in `__init__`, whose errors Ray would make known as those of an actor that died.

        Raises:
            BuildError: this node would not make the same bytes.
        """
        os.chdir(self.folder)
        staging = open_storage(self.staging_url)
        plan = read_plan(staging)
        versions = differences(locked_versions(), plan.facts["versions"])
        if versions:
            raise BuildError(
                f"node {os.uname().nodename} has other versions than the plan: "
                f"{'; '.join(versions)}. Install the same on all nodes."
            )
        tokenizer = self.making.load_on("cuda" if self.desk.gpus else "cpu")
        self._pool = decoding_pool(self.desk.cores)
        pool = self._pool.__enter__()
        self.bench = Workbench(plan, self.making.source, tokenizer, staging, pool)
        return []

    def tokenize(self, slots: Sequence[Slot]) -> list[PartReport]:
        """Finish these parts, but for those that a lost actor had finished already."""
        plan, staging = self.bench.plan, self.bench.staging
        found = [finished_part(slot, plan.hash, staging) for slot in slots]
        missing = [slot for slot, report in zip(slots, found, strict=True) if report is None]
        fresh = tokenize_parts(map(plan.part, missing), self.bench)
        return [*(report for report in found if report), *fresh]


def tokenize_on_ray(
    job: Job, slots: Sequence[Slot], staging: Storage, running: Running, watch: RejectWatch
) -> list[PartReport]:
    """Finish these parts on the cluster that `RAY_ADDRESS` names, else on this machine.

    Raises:
        BuildError: images were rejected that must not be, a part kills whoever works on it, or no
            node can work.
        InputChanged: an image is not the one that was planned.
    """
    ray = _ray()
    began_here = not ray.is_initialized()
    if began_here:
        ray.init(log_to_driver=False, logging_level="ERROR", configure_logging=False)
    url = staging.url if "://" in staging.url else str(Path(staging.url).absolute())
    device = str(job.plan.facts["device"])
    making = ray.put(Making(job.source, job.load_on))
    crew = _Crew(ray, making, (url, str(Path.cwd())), device)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Ray prints what dies; ours is data
            return _work_off(crew, deque(slots), watch)
    finally:
        crew.dismiss()
        if began_here:
            ray.shutdown()


def _work_off(crew: "_Crew", todo: deque[Slot], watch: RejectWatch) -> list[PartReport]:
    """Give out parts until all are done."""
    done: list[PartReport] = []
    lost: dict[str, int] = {}
    while todo or crew.busy():
        crew.hire()
        for desk, slots, result in crew.results():
            if isinstance(result, Exception):
                _put_back(todo, slots, lost, result)
                continue
            counts = {slot.name: slot.count for slot in slots}
            for report in result:
                done.append(report)
                watch.see_batch(counts[report.name], report.rejects)
            if todo:
                count = max(1, min(MOST_PARTS, len(todo) // (2 * crew.size())))
                crew.give(desk, [todo.popleft() for _ in range(count)])
            else:
                crew.rest(desk)
        crew.wake(todo)
    return done


def _put_back(
    todo: deque[Slot], slots: Sequence[Slot], lost: dict[str, int], error: Exception
) -> None:
    for slot in slots:
        lost[slot.name] = lost.get(slot.name, 0) + 1
        if lost[slot.name] >= ATTEMPTS:
            raise BuildError(
                f"{ATTEMPTS} Ray actors were lost while they worked on {slot.name} "
                f"({type(error).__name__}). Look at the memory of the nodes; what is finished is "
                "kept."
            ) from error
    todo.extendleft(reversed(slots))


class _Crew:
    """The actors, who works on what, and who is idle."""

    def __init__(self, ray: Any, making: Any, places: tuple[str, str], device: str) -> None:
        self.ray, self.making, self.places, self.device = ray, making, places, device
        self.actors: dict[tuple[str, int], Any] = {}
        self.work: dict[Any, tuple[Desk, list[Slot]]] = {}
        self.idle: dict[tuple[str, int], Desk] = {}
        self.started: set[tuple[str, int]] = set()
        self.looked, self.alone_since = 0.0, time.monotonic()
        self.trouble: Exception | None = None  # of the actor that was lost last

    def size(self) -> int:
        return max(1, len(self.started))

    def busy(self) -> bool:
        """Whether somebody has parts; who only starts has none."""
        return any(slots for _, slots in self.work.values())

    def hire(self) -> None:
        """Start an actor at every desk that has none.

        Raises:
            BuildError: for a while there has been nobody who could work.
        """
        now = time.monotonic()
        if now - self.looked < SECONDS_BETWEEN_LOOKS and self.actors:
            return
        self.looked = now
        for desk in desks(self.ray.nodes(), self.device):
            if desk[:2] not in self.actors:
                actor = self._start(desk)
                self.actors[desk[:2]] = actor
                self.work[actor.ready.remote()] = (desk, [])
        if self.started:
            self.alone_since = now
        elif now - self.alone_since > PATIENCE:
            raise BuildError(
                f"no node of the Ray cluster could start a worker on {self.device} in "
                f"{PATIENCE:,.0f} s (the last was lost by {type(self.trouble).__name__}). Look at "
                "`ray status`; what is finished is kept."
            ) from self.trouble

    def results(self) -> Iterator[tuple[Desk, list[Slot], "list[PartReport] | Exception"]]:
        """What has come back; an exception where the actor was lost, others are raised."""
        refs = list(self.work)
        ready, _ = self.ray.wait(refs, timeout=SECONDS_BETWEEN_LOOKS) if refs else ([], [])
        if not refs:
            time.sleep(0.1)
        for ref in ready:
            desk, slots = self.work.pop(ref)
            try:
                reports = self.ray.get(ref)
            except self.ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except self.ray.exceptions.RayError as error:
                self._forget(desk)
                self.trouble = error
                yield desk, slots, error
            else:
                self.started.add(desk[:2])
                yield desk, slots, reports

    def give(self, desk: Desk, slots: list[Slot]) -> None:
        self.idle.pop(desk[:2], None)
        self.work[self.actors[desk[:2]].tokenize.remote(slots)] = (desk, slots)

    def rest(self, desk: Desk) -> None:
        self.idle[desk[:2]] = desk

    def wake(self, todo: deque[Slot]) -> None:
        """Give parts that came back to those who have none."""
        for desk in list(self.idle.values()):
            if todo:
                self.give(desk, [todo.popleft()])

    def dismiss(self) -> None:
        for actor in self.actors.values():
            self.ray.kill(actor)

    def _forget(self, desk: Desk) -> None:
        self.actors.pop(desk[:2], None)
        self.idle.pop(desk[:2], None)
        self.started.discard(desk[:2])

    def _start(self, desk: Desk) -> Any:
        strategy = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            desk.node, soft=False
        )
        options = {"num_cpus": desk.cores, "num_gpus": desk.gpus, "scheduling_strategy": strategy}
        actor = self.ray.remote(Encoder).options(**options, max_restarts=0)
        return actor.remote(self.making, *self.places, desk)


def desks(nodes: Sequence[dict[str, Any]], device: str) -> Iterator[Desk]:
    """Where actors work: at every GPU for a build on cuda, else one a node; a core stays free."""
    for node in nodes:
        cores = int(node["Resources"].get("CPU", 0))
        seats = int(node["Resources"].get("GPU", 0)) if device == "cuda" else 1
        if node["Alive"] and cores:
            for place in range(seats):
                share = max(1, (cores - 1) // seats)
                yield Desk(node["NodeID"], place, share, int(device == "cuda"))


def _ray() -> Any:
    try:
        import ray
        import ray.util.scheduling_strategies
    except ModuleNotFoundError as error:
        raise UsageError("--engine ray needs ray; pip install 'tokenstore[ray]'") from error
    return ray
