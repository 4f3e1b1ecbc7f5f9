"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import final

import msgspec
import torch
from torch import Tensor

from runtime.errors import UserError
from st3.layers import prunable_weights
from st3.reach import beyond_reach, told
from train.dataset import Dataset
from train.distributed import World
from train.evaluate import accuracy_of
from train.progress import Report, Reporter
from train.recipe import Recipe
from train.seeds import generator
from train.selection import Best, Selection
from train.settings import Settings
from train.state import Saved, State, StateStore
from train.stop import Stop, StoppedError
from train.trainer import Execution, Trainer, part_of

REPORT_STEPS = {"cpu": 20, "cuda": 200}
"""Steps between reports; every report makes a GPU wait."""

SAVE_SECONDS = 30.0
"""Between states, where no number of steps was asked for."""

DIVERGED = 10.0
"""A mean loss of so many times that of guessing, ``ln(classes)``, is no training any more."""


class Job(msgspec.Struct, frozen=True):
    """What to train, on what, where and how.

    Attributes:
        recipe: with the values that options replaced.
        settings: of the run.
        dataset: where the pictures come from.
        device: where the network is.
        save_every: steps between saved states; ``None`` for one every ``SAVE_SECONDS``.
        execution: graph, compiler, first weights, teacher.
        world: this process among all.
    """

    recipe: Recipe
    settings: Settings
    dataset: Dataset
    device: torch.device
    save_every: int | None = None
    execution: Execution = Execution()
    world: World = World()


class Fitted(msgspec.Struct, frozen=True):
    """A trained model that is not baked yet (unless fine-tuning did), how long it took and which step was chosen."""

    trainer: Trainer
    seconds: float
    best: Best | None


def steps_of(batch_size: int, pictures: int, epochs: float, limit: int | None) -> int:
    """Optimiser steps of a run, ``limit`` at most.

    Raises:
        UserError: not a single step is left.
    """
    if pictures < batch_size:
        raise UserError(
            f"{pictures} training pictures do not fill a batch of {batch_size}; give --batch-size {pictures} or fewer"
        )
    steps = round(epochs * (pictures // batch_size))
    steps = steps if limit is None else min(steps, limit)
    if steps < 1:
        raise UserError(
            f"{epochs:g} epochs of {pictures} pictures in batches of {batch_size} make no step; give more --epochs"
        )
    return steps


def fit(job: Job, store: StateStore, reporter: Reporter, resume: bool, stop: Stop | None = None) -> Fitted:
    """Train from the start or from the last saved state.

    Raises:
        UserError: the loss exploded, a state cannot be written, or the saved one does not fit.
        StoppedError: ``stop`` was requested; the state is saved.
    """
    saved = store.load(job.settings) if resume else None
    return _Loop(job, store, reporter, stop or Stop(), saved is None or saved[1].projections).run(saved)


@final
class _Loop:
    """One call of ``fit``."""

    def __init__(self, job: Job, store: StateStore, reporter: Reporter, stop: Stop, projections: bool) -> None:
        self.job, self.store, self.reporter, self.stop = job, store, reporter, stop
        self.trainer = Trainer(job.recipe, job.settings, job.device, job.execution, job.world, projections)
        self.selection = Selection()
        self.training, self.held_out = split(job.dataset.size, job.settings)
        self.per_epoch = len(self.training) // job.settings.batch_size
        self.began = self.saved = time.perf_counter()
        self.reported = self.kept = 0

    def run(self, saved: tuple[Saved, State] | None) -> Fitted:
        settings = self.job.settings
        step = self._begin(saved)
        while step < settings.all_steps:
            for images, labels in self._rest_of_epoch(step):
                if step == settings.steps:
                    self._end_phase()
                    self.trainer.begin_finetune()
                    self._select(step)
                self.trainer.step(images, labels, step)
                step += 1
                self._after(step)
                if step == settings.all_steps:
                    break
        self._end_phase()
        return Fitted(self.trainer, time.perf_counter() - self.began, self.selection.best)

    def _begin(self, saved: tuple[Saved, State] | None) -> int:
        """Restore a saved state, or remove what another run left; the number of steps that are done."""
        job = self.job
        step = saved[0].step if saved else 0
        if not job.world.agree(step, job.device):
            raise UserError("the processes found different saved states; give an --out that all of them can see")
        if saved is not None:
            self.began -= saved[0].seconds
            self.trainer.restore(saved[1], step)
            best = {name: value.to(job.device) for name, value in part_of(saved[1].tensors, "best").items()}
            self.selection.restore(saved[1].best, best)
        elif job.world.first and (remark := self.store.set_aside()):
            self.reporter.say(remark)
        if job.world.first:
            self.reporter.start(step)
            self.reporter.say(told(prunable_weights(self.trainer.model), beyond_reach(self.trainer.model)))
            if self.trainer.untrained and not step:
                names = ", ".join(self.trainer.untrained)
                self.reporter.say(f"{names} begin at random: the first weights are for another number of classes")
        self.reported = self.kept = step
        return step

    def _after(self, step: int) -> None:
        """Between two steps: select, report, save, stop."""
        job = self.job
        last = step in (job.settings.steps, job.settings.all_steps)
        due = job.save_every is not None and step % job.save_every == 0
        # a request may reach several processes at different steps; they can only stop together, at a report
        stopping = self.stop.requested and job.world.size == 1
        if last or step % self.per_epoch == 0:
            self._select(step)
        if not (last or due or stopping or step % REPORT_STEPS[job.device.type] == 0):
            return
        self._report(step)
        if job.world.size > 1:
            stopping = not job.world.agree_none(self.stop.requested, job.device)
        waited = job.save_every is None and time.perf_counter() - self.saved > SAVE_SECONDS
        if last or due or stopping or waited:
            self._save(step)
        if stopping and step < job.settings.all_steps:
            raise StoppedError(f"stopped on request after step {step} of {job.settings.all_steps}")

    def _select(self, step: int) -> None:
        settings = self.job.settings
        if not len(self.held_out) or step < settings.plan.end * settings.steps or not self.job.world.first:
            return
        trainer = self.trainer
        batches = self.job.dataset.plain(self.held_out, self.job.device)
        if trainer.average is None:
            self.selection.offer(step, accuracy_of(trainer.model, batches), trainer.model.state_dict())
        else:
            with trainer.average.applied():
                self.selection.offer(step, accuracy_of(trainer.model, batches), trainer.model.state_dict())

    def _end_phase(self) -> None:
        """The averaged weights, or the selected ones, take the place of the last."""
        if self.selection.best is None:
            self.trainer.settle()
        else:
            self.trainer.choose(self.selection.tensors())
            if self.trainer.finetuning or not self.job.settings.finetune_steps:
                return
            self.selection.clear()

    def _save(self, step: int) -> None:
        self.saved = time.perf_counter()
        self.kept = step
        if not self.job.world.first:
            return
        state = self.trainer.state()
        best = {f"best.{name}": value for name, value in self.selection.tensors().items()}
        whole = msgspec.structs.replace(state, tensors={**state.tensors, **best}, best=self.selection.best)
        self.store.save(self.job.settings, step, self.saved - self.began, whole)

    def _rest_of_epoch(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of the batches from ``step`` to the end of its epoch.

        Each epoch has its own order, a function of seed and epoch.
        """
        settings, world, dataset, device = self.job.settings, self.job.world, self.job.dataset, self.job.device
        epoch, done = divmod(step, self.per_epoch)
        random = generator(torch.device("cpu"), settings.seed, "order", epoch)
        shuffled = self.training[torch.randperm(len(self.training), generator=random)]
        order = shuffled[done * settings.batch_size : self.per_epoch * settings.batch_size]
        shard = (world.rank, world.size)
        return dataset.batches(order, settings.batch_size, step, settings.seed, device, shard=shard)

    def _report(self, step: int) -> None:
        job, settings = self.job, self.job.settings
        totals = self.trainer.totals(settings.batch_size // job.world.size)
        first, self.reported = self.reported, step
        kept = f"the last good state, of step {self.kept}, is kept" if self.kept else "no state had been saved yet"
        advice = f"the learning rate is {job.recipe.learning_rate:g} at its peak; lower it, or try another --seed"
        if totals.bad:
            # nothing is saved before it has been looked at
            raise UserError(
                f"the loss is {totals.loss} at step {first + totals.bad} of {settings.all_steps}; {kept}; {advice}"
            )
        guess = math.log(len(job.dataset.classes))
        if totals.loss > DIVERGED * guess:
            raise UserError(
                f"the loss of steps {first + 1} to {step} is {totals.loss:.3g} and guessing would give {guess:.3g}: "
                f"the training has diverged; {kept}; {advice}"
            )
        if not job.world.first:
            return
        self.reporter.report(
            Report(
                step=step,
                epoch=step / self.per_epoch,
                loss=totals.loss,
                accuracy=totals.accuracy,
                sparsity=totals.sparsity,
                threshold=totals.threshold,
                learning_rate=self.trainer.learning_rate,
                seconds=time.perf_counter() - self.began,
            )
        )


def split(size: int, settings: Settings) -> tuple[Tensor, Tensor]:
    """Indices of the training pictures and of those held out, which are chosen by the seed."""
    if not settings.held_out:
        return torch.arange(size), torch.empty(0, dtype=torch.int64)
    random = generator(torch.device("cpu"), settings.seed, "held out")
    order = torch.randperm(size, generator=random)
    return order[settings.held_out :].sort().values, order[: settings.held_out].sort().values
