"""One training run from settings to a checkpoint on disk."""

from __future__ import annotations

from pathlib import Path

import torch

from runtime.data import EvaluationSet
from st3.checkpoint import INFO_FILE, Checkpoint, CheckpointInfo, load_checkpoint, write_checkpoint
from train.evaluate import evaluate
from train.loop import Fitted, Job, fit
from train.progress import Reporter
from train.provenance import commit, versions
from train.settings import Settings, refuse_difference
from train.state import StateStore
from train.stop import Stop


def completed(folder: Path, settings: Settings) -> Checkpoint | None:
    """The checkpoint that this run has already written, if it has.

    Raises:
        UserError: a checkpoint is there but damaged, or of a run with other settings.
    """
    if not (folder / INFO_FILE).is_file():
        return None
    checkpoint = load_checkpoint(folder)
    found = Settings(**{name: getattr(checkpoint.info, name) for name in Settings.__struct_fields__})
    refuse_difference(settings, found, str(folder))
    return checkpoint


def train_checkpoint(
    folder: Path,
    job: Job,
    evaluation: EvaluationSet | None,
    resume: bool,
    stop: Stop | None = None,
    remark: str = "",
) -> Checkpoint | None:
    """Train, bake, evaluate, write; the resume state is removed when the checkpoint is complete.

    Args:
        folder: where to.
        job: what to train.
        evaluation: pictures to measure the accuracy on; the first process needs them.
        resume: go on from the last saved state.
        stop: a request to end early.
        remark: a line to show at the start.

    Returns:
        The checkpoint; ``None`` in every process but the first, which writes it.

    Raises:
        UserError: the training failed, or a file cannot be written; the last state is kept.
        StoppedError: ``stop`` was requested; the state is saved.
    """
    store = StateStore(folder)
    with Reporter(store.log, folder.name, job.settings.all_steps, quiet=not job.world.first) as reporter:
        if remark and job.world.first:
            reporter.say(remark)
        fitted = fit(job, store, reporter, resume, stop)
    if not job.world.first:
        return None
    assert evaluation is not None
    trainer = fitted.trainer
    trainer.bake()
    info = describe(job, fitted, evaluation)
    checkpoint = write_checkpoint(folder, trainer.model, info, trainer.pruner.patterns, store.log)
    store.clear()
    return checkpoint


def describe(job: Job, fitted: Fitted, evaluation: EvaluationSet) -> CheckpointInfo:
    """What a checkpoint says of a baked model and its run, with its accuracy on the evaluation set."""
    settings, execution = job.settings, job.execution
    accuracy, loss = evaluate(fitted.trainer.model, evaluation, job.device)
    ways = (("compiled", execution.compile), ("graph", execution.graph))
    return CheckpointInfo(
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
        train_seconds=fitted.seconds,
        commit=commit(),
        versions=versions(),
        precision=settings.precision,
        execution="+".join(name for name, used in ways if used) or "eager",
        world_size=job.world.size,
        finetune_steps=settings.finetune_steps,
        teacher=settings.teacher,
        start=settings.start,
        changes=settings.changes,
        held_out=settings.held_out,
        selected_step=fitted.best.step if fitted.best else None,
        model=settings.model,
        model_arguments=settings.model_arguments,
    )
