"""Replay: the order of continual learning, tasks one after the other beside a memory of bytes.

Experience Replay (Chaudhry et al., arXiv 1902.10486; figure 4 of SeiT): the classes come in tasks,
and a part of every batch is drawn from a reservoir of what was seen before, which holds as many
records as fit into a number of bytes. It is an `order.Order`, so the trainer, the loaders and a
resume know nothing of it; an epoch is a task. What a record is, tokens or a JPEG, is only a size.

    row 0 .. fresh-1 of a batch     images of this task, `passes` times all of them, each time anew
    the other rows                  drawn from the memory as it is before this batch

The reservoir is that of Vitter (1985), by bytes: every image draws a lot when it is first seen, and
the memory is the longest run of lowest lots that fits. So it follows from what was seen alone, is a
uniform sample of it at every step, and nothing has to be kept for a resume.
"""

from dataclasses import dataclass

import numpy as np

from tokenstore.errors import UsageError
from tokenstore.order import Numbers, Permutation, described, mixed, permuted

_LOTS, _DRAWS, _PASSES = np.array([20]), np.array([21]), np.array([22])  # what seeds are for


@dataclass(frozen=True)
class ReplayPlan:
    """How a split is learnt task by task.

    Attributes:
        tasks: into which the classes are divided.
        passes: over the images of each task.
        memory: bytes of the records that are remembered; 0 remembers nothing.
        fresh: rows of a batch with images of the task.
        batch_size: rows of a batch, over all processes.
        seed: decides which classes make a task, the order, the lots and the draws.
    """

    tasks: int
    passes: int
    memory: int
    fresh: int
    batch_size: int
    seed: int


class Replay:
    """Images of one task after the other, and of the memory; see the top of this file."""

    def __init__(self, labels: Numbers | None, sizes: Numbers, plan: ReplayPlan) -> None:
        """Deal the images to tasks and draw their lots. Takes 24 bytes an image.

        Args:
            labels: class of each sample, int64 [n].
            sizes: bytes of each sample's record, int64 [n].
            plan: the numbers.

        Raises:
            UsageError: there are no labels, or fewer classes than tasks.
        """
        if labels is None:
            raise UsageError(
                "tasks are made of classes, and this split has no labels. Build the store from a "
                "folder of class folders, or leave out data.replay."
            )
        self.plan, self._labels, self._sizes = plan, labels, sizes
        task = tasks_of_classes(int(labels.max()) + 1, plan.tasks, plan.seed)[labels]
        self._counts = np.bincount(task, minlength=plan.tasks)
        self._firsts = self._counts.cumsum() - self._counts
        self._members = np.argsort(task, kind="stable")
        places = np.arange(len(labels)) - self._firsts.repeat(self._counts)
        tasks = np.arange(plan.tasks).repeat(self._counts)
        self._arrived = self._members[self._shuffled(tasks, places)]  # by first sight
        self._by_lot = np.argsort(mixed(plan.seed, _LOTS, self._arrived), kind="stable")
        self.steps = max(1, round(plan.passes * len(labels) / plan.tasks / plan.fresh))

    def __len__(self) -> int:
        """Rows of a task: as many steps for each."""
        return self.steps * self.plan.batch_size

    def at(self, epoch: int, positions: Numbers) -> Numbers:
        """See `Order`."""
        task = min(epoch, self.plan.tasks - 1)
        steps, rows = np.divmod(positions, self.plan.batch_size)
        samples = np.empty_like(positions)
        fresh = rows < self.plan.fresh
        shown = steps[fresh] * self.plan.fresh + rows[fresh]
        samples[fresh] = self._members[self._shuffled(np.full_like(shown, task), shown)]
        for step in np.unique(steps[~fresh]).tolist():
            here = ~fresh & (steps == step)
            memory = self.remembered(task, step)
            if not len(memory):  # nothing seen, or no room: more of the task
                memory = self._members[self._firsts[task] :][: self._counts[task]]
            draws = mixed(self.plan.seed, _DRAWS, task * len(self) + positions[here])
            samples[here] = memory[(draws % np.uint64(len(memory))).astype(np.int64)]
        return samples

    def remembered(self, task: int, step: int) -> Numbers:
        """Sample numbers in the memory before a step (0 is the first) of a task, by lot."""
        seen = self._firsts[task] + min(step * self.plan.fresh, int(self._counts[task]))
        samples = self._arrived[self._by_lot[self._by_lot < seen]]
        room = np.searchsorted(self._sizes[samples].cumsum(), self.plan.memory, side="right")
        kept: Numbers = samples[:room]
        return kept

    @property
    def description(self) -> str:
        """See `order.description_of`."""
        plan = {name: getattr(self.plan, name) for name in ReplayPlan.__annotations__}
        return described(type(self).__name__, labels=self._labels, sizes=self._sizes, **plan)

    def _shuffled(self, tasks: Numbers, shown: Numbers) -> Numbers:
        """Places in `_members` of the images that a task shows at these of its rows."""
        counts = self._counts[tasks]
        passes, places = np.divmod(shown, counts)
        seeds = mixed(self.plan.seed, _PASSES, tasks)
        return self._firsts[tasks] + permuted(places, counts, seeds, passes)


def tasks_of_classes(classes: int, tasks: int, seed: int) -> Numbers:
    """Which task each class belongs to, int64 [classes]: equally many, in a random order.

    Raises:
        UsageError: there are fewer classes than tasks.
    """
    if tasks > classes:
        raise UsageError(
            f"{classes} classes do not make {tasks} tasks (one an epoch): lower epochs=N"
        )
    order = Permutation(classes, seed, 0).at(np.arange(classes))
    return order * tasks // classes
