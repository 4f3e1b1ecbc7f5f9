"""What training measures, one JSON line each: a finished run, what a method's steps cost."""

from __future__ import annotations

import msgspec


class SweepRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One finished run of a sweep.

    Attributes:
        key: hash of all that decided what it computed.
        recipe: its name.
        recipe_digest: of every value of the recipe.
        options: more options of ``st3 train``.
        method: of sparse training.
        pattern: of the zeros; ``dense`` without any.
        target_sparsity: fraction of zeros asked for.
        sparsity: fraction of zeros reached.
        seed: of all randomness.
        accuracy: top-1 on the evaluation set, in [0, 1].
        loss: mean cross-entropy on the evaluation set.
        epochs: passes over the training pictures.
        steps: optimiser steps.
        seconds: of training, all attempts together, beside the other runs that shared the machine.
        jobs: runs that were trained at a time.
        weights_sha256: digest of the weight file.
        device: name of the GPU, or ``cpu``.
        processor: of the machine.
        threads: CPU threads of the run.
        commit: of the code.
        versions: of Python and the packages that decide the numbers.
    """

    key: str
    recipe: str
    recipe_digest: str
    options: tuple[str, ...]
    method: str
    pattern: str
    target_sparsity: float
    sparsity: float
    seed: int
    accuracy: float
    loss: float
    epochs: float
    steps: int
    seconds: float
    jobs: int
    weights_sha256: str
    device: str
    processor: str
    threads: int
    commit: str
    versions: dict[str, str]


class SpeedRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What training steps cost of one method in one mode.

    Attributes:
        recipe: whose network and optimiser.
        method: the second ``dense`` is the same as the first: their difference is the noise.
        mode: ``eager``, ``compiled`` or ``graph``.
        batch_size: pictures per step.
        precision: of the forward and backward pass.
        images_per_s: median over the windows.
        spread_percent: half the distance of the quartiles of the window's times, of their median.
        overhead_percent: median over the rounds of the time against dense's in the same round; ``None`` for dense.
        step_ms: median over the windows.
        issue_ms: what the host needs to issue a step, median over the windows; where it is as long as the step, the
            host is what holds a GPU up, and where it is short, the GPU's own work.
        run_hours: of the recipe's epochs and fine-tuning at this speed, without evaluation and loading of pictures.
        windows_s: seconds per step, one number per round.
        device: its name.
        commit: of this code.
        versions: of what it ran on.
    """

    recipe: str
    method: str
    mode: str
    batch_size: int
    precision: str
    images_per_s: float
    spread_percent: float
    overhead_percent: float | None
    step_ms: float
    issue_ms: float
    run_hours: float
    windows_s: tuple[float, ...]
    device: str
    commit: str
    versions: dict[str, str]
