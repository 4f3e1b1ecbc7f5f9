"""One training run from settings to a checkpoint on disk."""

from __future__ import annotations

from pathlib import Path

import torch

from runtime.data import EvaluationSet
from st3.checkpoint import INFO_FILE, Checkpoint, CheckpointInfo, load_checkpoint, write_checkpoint
from train.evaluate import evaluate
from train.loop import Job, fit
from train.progress import Reporter
from train.provenance import commit, versions
from train.settings import Settings, refuse_difference
from train.state import StateStore


def completed(folder: Path, settings: Settings) -> Checkpoint | None:
    """The checkpoint that this run has already written, if it has.

    Raises:
        UserError: a checkpoint is there but damaged, or of a run with other settings.
    """
    if not (folder / INFO_FILE).is_file():
        return None
    checkpoint = load_checkpoint(folder)
    info = checkpoint.info
    found = Settings(
        recipe=info.recipe,
        recipe_digest=info.recipe_digest,
        method=info.method,
        plan=info.plan,
        epochs=info.epochs,
        steps=info.steps,
        batch_size=info.batch_size,
        seed=info.seed,
    )
    refuse_difference(settings, found, str(folder))
    return checkpoint


def train_checkpoint(folder: Path, job: Job, evaluation: EvaluationSet, resume: bool) -> Checkpoint:
    """Train, bake, evaluate, write; the resume state is removed when the checkpoint is complete."""
    settings = job.settings
    store = StateStore(folder)
    with Reporter(store.log, folder.name, settings.steps) as reporter:
        trainer, seconds = fit(job, store, reporter, resume)
    trainer.pruner.bake()
    accuracy, loss = evaluate(trainer.model, evaluation, job.device)
    info = CheckpointInfo(
        recipe=settings.recipe,
        recipe_digest=settings.recipe_digest,
        method=settings.method,
        pattern=settings.method if settings.method == "dense" else settings.plan.pattern,
        plan=settings.plan,
        target_sparsity=settings.plan.target,
        accuracy=accuracy,
        loss=loss,
        evaluation=evaluation.info.name,
        preprocessing=job.dataset.preprocessing,
        classes=job.dataset.classes,
        seed=settings.seed,
        epochs=settings.epochs,
        steps=settings.steps,
        batch_size=settings.batch_size,
        device=torch.cuda.get_device_name() if job.device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        train_seconds=seconds,
        commit=commit(),
        versions=versions(),
    )
    checkpoint = write_checkpoint(folder, trainer.model, info, trainer.pruner.patterns, store.log)
    store.clear()
    return checkpoint
