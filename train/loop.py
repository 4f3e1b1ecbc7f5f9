"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
import torch
from torch import Tensor

from runtime.errors import UserError
from train.dataset import Dataset
from train.progress import Report, Reporter
from train.recipe import Recipe
from train.seeds import generator
from train.settings import Settings
from train.state import StateStore
from train.trainer import Trainer

REPORT_STEPS = 20


class Job(msgspec.Struct, frozen=True):
    """What to train, on what, where, and how often to save (in steps)."""

    recipe: Recipe
    settings: Settings
    dataset: Dataset
    device: torch.device
    save_every: int


def steps_of(recipe: Recipe, dataset: Dataset, epochs: float, limit: int | None) -> int:
    """Optimiser steps of a run, ``limit`` at most.

    Raises:
        UserError: not a single step is left.
    """
    steps = round(epochs * (dataset.size // recipe.batch_size))
    steps = steps if limit is None else min(steps, limit)
    if steps < 1:
        raise UserError(
            f"{epochs:g} epochs of {dataset.size} pictures in batches of {recipe.batch_size} make no step; "
            f"give more --epochs or --max-steps"
        )
    return steps


def fit(job: Job, store: StateStore, reporter: Reporter, resume: bool) -> tuple[Trainer, float]:
    """Train from the start or from the last saved state.

    Returns:
        The trainer with its model not yet baked, and the seconds of training, those of killed attempts included.

    Raises:
        UserError: the loss became infinite or NaN, or the saved state does not fit.
    """
    settings = job.settings
    trainer = Trainer(job.recipe, settings, job.device)
    saved = store.load(settings) if resume else None
    step, seconds = 0, 0.0
    if saved is not None:
        step, seconds = saved[0].step, saved[0].seconds
        trainer.restore(saved[1], saved[0].scaler)
    else:
        store.clear()
    reporter.start(step)
    start = time.perf_counter() - seconds
    window: list[tuple[Tensor, Tensor]] = []
    while step < settings.steps:
        for images, labels in _rest_of_epoch(job, step):
            window.append(trainer.step(images, labels, step))
            step += 1
            saving = step % job.save_every == 0
            if saving or step % REPORT_STEPS == 0 or step == settings.steps:
                reporter.report(_summary(job, trainer, window, step, time.perf_counter() - start))
                window.clear()
            if saving:
                seconds = time.perf_counter() - start
                store.save(settings, step, seconds, trainer.scaler_state(), trainer.tensors())
            if step == settings.steps:
                break
    return trainer, time.perf_counter() - start


def _rest_of_epoch(job: Job, step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches from ``step`` to the end of its epoch; each epoch has its own order, a function of seed and epoch."""
    size, settings = job.dataset.size, job.settings
    epoch, done = divmod(step, size // settings.batch_size)
    random = generator(torch.device("cpu"), settings.seed, "order", epoch)
    order = torch.randperm(size, generator=random)[done * settings.batch_size :]
    return job.dataset.batches(order, settings.batch_size, step, settings.seed, job.device)


def _summary(job: Job, trainer: Trainer, window: list[tuple[Tensor, Tensor]], step: int, seconds: float) -> Report:
    losses = torch.stack([loss for loss, _ in window])
    finite = losses.isfinite()
    if not finite.all():
        # looked at once per report, since every look makes a GPU wait; nothing is saved before it
        bad = step - len(window) + 1 + int(finite.logical_not().nonzero()[0])
        raise UserError(
            f"the loss is {float(losses[~finite][0])} at step {bad} of {job.settings.steps}; the last good state is "
            f"kept; lower the learning rate, or try another --seed"
        )
    correct = int(torch.stack([right for _, right in window]).sum())
    return Report(
        step=step,
        epoch=step / (job.dataset.size // job.settings.batch_size),
        loss=float(losses.mean()),
        accuracy=correct / (len(window) * job.settings.batch_size),
        sparsity=trainer.pruner.total_sparsity(),
        threshold=float(trainer.pruner.threshold),
        learning_rate=trainer.learning_rate,
        seconds=seconds,
    )
