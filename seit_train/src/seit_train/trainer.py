"""Trainer: the loop. It knows tasks by `tasks/base` only, and data by batches of ranks.

What a step does is a pure function of (configuration, store, number of the step): the order of the
images, the learning rate and every random draw follow from the seed and that number. A checkpoint
therefore holds weights, optimizer state and the number, and a run that goes on from it ends with
the weights of a run that was never interrupted (bit for bit on a CPU with as many threads).
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from seit_train.checkpoint import (
    Checkpoint,
    load_checkpoint,
    load_optimizer,
    optimizer_tensors,
    save_checkpoint,
)
from seit_train.data import Batches, Samples, TokenBatch, iterate
from seit_train.distributed import World, any_process
from seit_train.interval import Interval, StepRecord
from seit_train.metrics import Journal
from seit_train.optim import make_optimizer, make_schedule
from seit_train.precision import autocast, resolve_precision
from seit_train.run import Run
from seit_train.signals import StopRequest
from seit_train.utilisation import count_flops, device_peak, memory_scalars
from tokenstore.errors import Interrupted, TrainingError

_COUNTED = 8  # images whose operations are counted
_LEAST_SCALE = 1e-6  # of a scaler: 36 halvings from where it starts, and no gradient is left
_STEPS_PER_LOOK = 8  # from one agreement on stopping to the next, where there are several processes


class Trainer:
    """One run on this process: model, optimizer, loader, and where they stand.

    Attributes:
        step: steps done.
        steps: steps of the whole run.
        best: best value of the task's metric so far, or None.
        seconds: time spent so far, over all resumes.
        peak: FLOP/s of this process's device, or None where that is not known.
        flops: operations of an image in training; counted at the first step where there is a peak.
    """

    # ---- model, optimizer, data -----------------------------------------------------------------

    def __init__(self, run: Run, world: World, train: Samples, val: Samples | None) -> None:
        """Build everything as it is before the first step."""
        config, device = run.config, world.device
        self.run, self.world, self.config, self.train = run, world, config, train
        torch.manual_seed(config.seed)
        self.task = run.task(config, run.store.facts())
        self.model: nn.Module = self.task.build_model().to(device)
        self.optimizer = make_optimizer(self.model, config, self.task.layer_of)
        self.loader = self.task.training_batches(train, world)
        self.val_loader = None if val is None else self.task.evaluation_batches(val, world)
        self.steps_per_epoch = len(self.loader)
        self.steps = config.steps or max(1, round((config.epochs or 0) * self.steps_per_epoch))
        self.schedule = make_schedule(self.optimizer, config, self.steps, self.steps_per_epoch)
        self.precision = resolve_precision(config.loop.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.rng = torch.Generator(device)
        self.peak, self.flops = device_peak(device, self.precision), 0.0
        self.average: ModelEmaV3 | None = None
        self.step, self.seconds = 0, 0.0
        self.best: float | None = None

    @property
    def judged(self) -> nn.Module:
        """The model that is evaluated and kept: the moving average where there is one."""
        return self.model if self.average is None else self.average.module

    def _wrapped(self) -> nn.Module:
        """The model as the loop calls it: compiled, and synchronised over processes."""
        if self.config.loop.ema is not None and self.average is None:
            self.average = ModelEmaV3(self.model, decay=self.config.loop.ema)
        compiles = self.config.loop.compile
        if compiles == "on" or (compiles == "auto" and self.world.device.type == "cuda"):
            self.model.compile()
        return self.model if self.world.size == 1 else DistributedDataParallel(self.model)

    # ---- the loop -------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train to the last step, from wherever this trainer stands.

        Raises:
            Interrupted: somebody asked to stop.
            TrainingError: the loss is not finite. In both cases the newest checkpoint is whole.
        """
        network, batches = self._wrapped(), self._endless_batches()
        began = time.monotonic() - self.seconds
        interval = Interval()
        with StopRequest() as stop, self._journal() as journal:
            while self.step < self.steps:
                asked = time.perf_counter()
                batch = next(batches)
                interval.waited += time.perf_counter() - asked
                if self.peak is not None and not self.flops:
                    self.flops = self._count_flops(batch)
                interval.records.append(self._train_step(network, batch))
                self.seconds = time.monotonic() - began
                if journal:
                    journal.advance(self.step)
                if self._is_due(self.config.loop.log_every):
                    summary = self._summary(interval)
                    interval = Interval()
                    if journal:
                        journal.write(self.step, self.epoch, summary)
                if self._is_due(self._evaluate_every) or self._is_due(self._save_every):
                    paused = time.perf_counter()
                    self._refuse_nonfinite(interval)
                    self._evaluate_and_save(journal)
                    interval.began += time.perf_counter() - paused
                self._stop_if_asked(stop, interval)

    def _train_step(self, network: nn.Module, batch: TokenBatch) -> StepRecord:
        """One optimizer step, number `self.step + 1`."""
        self.step += 1
        self.schedule.step_update(self.step)
        network.train()
        scalars = self._gradients(network, batch)
        self.scaler.unscale_(self.optimizer)
        parameters = list(self.model.parameters())
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.config.optim.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.config.optim.clip_norm, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.task.after_step(self.model, self.step / self.steps)
        if self.average is not None:
            self.average.update(self.model)
        return StepRecord(self.step, batch.index, {**scalars, "grad_norm": norm})

    def _gradients(self, network: nn.Module, batch: TokenBatch) -> dict[str, Tensor]:
        """Accumulate the gradient of the mean loss, part by part; gives the mean scalars."""
        parts = self.config.loop.accumulate
        totals: dict[str, Tensor] = {}
        for part in range(parts):
            self._seed_draws(part)
            rows = batch.rows(slice(part, None, parts))
            with _last_synchronises(network, is_last=part == parts - 1):
                with autocast(self.precision, self.world.device):
                    loss, scalars = self.task.loss(network, rows, self.rng)
                torch.autograd.backward(self.scaler.scale(loss / parts))
            for name, value in {"loss": loss.detach(), **scalars}.items():
                totals[name] = totals.get(name, 0) + value / parts
        return totals

    def _seed_draws(self, part: int) -> None:
        """Seed all random draws of one part of this step's global batch.

        Images go to processes in turn, and from there to parts in turn, so part number
        `rank + size * part` holds the same images, and is drawn alike, on any number of processes
        whose product with `loop.accumulate` is the same.
        """
        number = self.world.rank + self.world.size * part
        words = (self.config.seed & (2**64 - 1), self.step, number)
        seed = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
        torch.manual_seed(seed)
        self.rng.manual_seed(seed)

    def _endless_batches(self) -> Iterator[TokenBatch]:
        while True:
            yield from iterate(self.loader)

    # ---- measuring ------------------------------------------------------------------------------

    @property
    def epoch(self) -> float:
        """Passes over the train split so far."""
        return self.step / self.steps_per_epoch

    @property
    def _evaluate_every(self) -> int:
        return max(1, round(self.config.loop.eval_every_epochs * self.steps_per_epoch))

    @property
    def _save_every(self) -> int:
        return max(1, round(self.config.loop.save_every_epochs * self.steps_per_epoch))

    def _is_due(self, period: int) -> bool:
        return self.step % period == 0 or self.step == self.steps

    def _journal(self) -> AbstractContextManager[Journal | None]:
        if not self.world.is_first:
            return nullcontext()
        return Journal(self.run.folder, self.config.task, self.steps, self.step + 1)

    def _summary(self, interval: Interval) -> dict[str, float]:
        """Means over the interval and over all processes, and how fast it went."""
        means, speed = self._refuse_nonfinite(interval), interval.speed(self.config.batch_size)
        if self.peak is not None:
            per_process = speed["images_per_second"] / self.world.size
            speed["mfu"] = per_process * self.flops / self.peak
        rate = max((group["lr"] for group in self.optimizer.param_groups), default=0.0)
        return {**means, "lr": rate, **speed, **memory_scalars(self.world.device)}

    def _count_flops(self, batch: TokenBatch) -> float:
        """Operations of an image in training, from a few images of a batch."""
        few = batch.rows(slice(_COUNTED))

        def loss() -> Tensor:
            self._seed_draws(0)
            with autocast(self.precision, self.world.device):
                return self.task.loss(self.model, few, self.rng).loss

        return count_flops(self.model.train(), loss) / len(few.index)

    def _refuse_nonfinite(self, interval: Interval) -> dict[str, float]:
        """Mean scalars of an interval.

        Raises:
            TrainingError: a loss is not finite, or a gradient that no scaler skips, or that it has
                skipped at every scale.
        """
        scales = self.scaler.is_enabled()
        means, bad = interval.means(["loss"] if scales else ["loss", "grad_norm"], self.world)
        if scales and interval.records and self.scaler.get_scale() < _LEAST_SCALE:
            bad = bad or interval.records[-1]
        if bad is not None:
            raise self._nonfinite(bad)
        return means

    def _nonfinite(self, record: StepRecord) -> TrainingError:
        keys = self.train.keys(record.index.cpu().numpy())
        samples = [str(name) for name in keys or record.index.tolist()]
        shown = ", ".join(samples[:8]) + (", ..." if len(samples) > 8 else "")
        rank, size = self.world.rank, self.world.size
        whose = "" if size == 1 else f"in process {rank} of 0 to {size - 1}: "
        return TrainingError(
            f"the loss or its gradient is not finite at step {record.step} ({whose}loss "
            f"{float(record.scalars['loss']):g}; samples {shown}). The last good checkpoint is "
            "kept: try a lower lr, optim.clip_norm=1.0 or loop.precision=fp32."
        )

    # ---- evaluating and keeping -----------------------------------------------------------------

    def _evaluate_and_save(self, journal: Journal | None) -> None:
        """Evaluate where it is due and there is a val split; keep the newest and the best."""
        improved = False
        if self.val_loader is not None and self._is_due(self._evaluate_every):
            metrics = self._evaluate(self.val_loader)
            if journal:
                journal.write(self.step, self.epoch, metrics)
            value = metrics[self.task.best_metric]
            sign = 1 if self.task.higher_is_better else -1
            improved = self.best is None or sign * value > sign * self.best
            self.best = value if improved else self.best
        if self.world.is_first:
            checkpoint = self._checkpoint()
            if improved:  # first, so that a kill between the two only repeats it
                save_checkpoint(self.run.best, checkpoint)
            save_checkpoint(self.run.last, checkpoint)

    @torch.no_grad()
    def _evaluate(self, loader: Batches) -> dict[str, float]:
        """The task's metrics over a whole split, the same on every process."""
        model = self.judged.eval()
        with autocast(self.precision, self.world.device):
            return self.task.evaluate(model, iterate(loader))

    def _checkpoint(self) -> Checkpoint:
        tensors = optimizer_tensors(self.optimizer, self.model)
        if self.average is not None:
            tensors |= {f"model/{name}": t for name, t in self.model.state_dict().items()}
        state = {
            "step": self.step,
            "steps": self.steps,
            "best": self.best,
            "seconds": round(self.seconds, 3),
            "loader": self.loader.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        origin = self.run.origin() | self.task.origin()
        return Checkpoint(self.judged.state_dict(), tensors, state, origin)

    def resume(self) -> None:
        """Stand where the newest checkpoint was taken.

        Raises:
            Mismatch: the store has changed since.
            TrainingError: the checkpoint is damaged.
        """
        checkpoint = load_checkpoint(self.run.last)
        state, weights = checkpoint.state, dict(checkpoint.weights)
        if self.config.loop.ema is not None:
            self.average = ModelEmaV3(self.model, decay=self.config.loop.ema)
            self.average.module.load_state_dict(weights)
            prefix = "model/"
            tensors = checkpoint.tensors.items()
            weights = {n.removeprefix(prefix): t for n, t in tensors if n.startswith(prefix)}
        self.model.load_state_dict(weights)
        load_optimizer(self.optimizer, self.model, checkpoint.tensors)
        self.loader.load_state_dict(state["loader"])
        self.scaler.load_state_dict(state["scaler"])
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]

    def _stop_if_asked(self, stop: StopRequest, interval: Interval) -> None:
        """Save and stop where a signal came; several processes agree on the step every few."""
        if self.step == self.steps:
            return
        if self.world.size > 1 and self.step % _STEPS_PER_LOOK:
            return
        if any_process(stop.requested, self.world):
            self._refuse_nonfinite(interval)
            if self.world.is_first:
                save_checkpoint(self.run.last, self._checkpoint())
            raise Interrupted(
                f"stopped as asked after step {self.step} of {self.steps}; everything is kept in "
                f"'{self.run.last}'. The same command with --resume continues."
            )


def _last_synchronises(network: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
    """Only the last part of a step averages gradients over processes: once is enough."""
    if is_last or not isinstance(network, DistributedDataParallel):
        return nullcontext()
    return network.no_sync()
