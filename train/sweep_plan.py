"""Which runs a sweep consists of, what each is called, and the command that trains it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from runtime.errors import UserError
from st3.plan import SparsityPlan
from st3.registry import find_method
from train.settings import checkpoint_name

OWN_OPTIONS = (
    "--method", "--sparsity", "--pattern", "--seed", "--out", "--evaluation", "--resume", "--json", "--device",
    "--threads", "--data",
)  # fmt: skip
"""Options of ``st3 train`` that the sweep itself gives to each run."""


class Run(msgspec.Struct, frozen=True):
    """One training run of a sweep; ``sparsity`` is ``None`` where the method or the pattern fixes it."""

    method: str
    pattern: str
    sparsity: float | None
    seed: int

    @property
    def name(self) -> str:
        """Folder name of its checkpoint: ``st3-unstructured-0.9-seed0``."""
        dense = SparsityPlan(sparsity=0.0)
        plan = dense if self.method == "dense" else SparsityPlan(sparsity=self.sparsity, pattern=self.pattern)
        return f"{checkpoint_name(self.method, plan)}-seed{self.seed}"


class Sweep(msgspec.Struct, frozen=True):
    """What all runs of a sweep have in common.

    Attributes:
        recipe: its name.
        recipe_digest: changes with every value of the recipe.
        options: more options of ``st3 train``, the same for every run.
        out: folder of the checkpoints, states, logs and results.
        evaluation: folder of the evaluation set, which all runs share.
        data: folder of the data set; ``None`` for the default.
        device: ``cpu`` or ``cuda``.
    """

    recipe: str
    recipe_digest: str
    options: tuple[str, ...]
    out: Path
    evaluation: Path
    data: Path | None
    device: str

    def key(self, run: Run) -> str:
        """Short hash of all that decides what a run computes."""
        return hashlib.sha256(repr((self.recipe, self.recipe_digest, self.options, run)).encode()).hexdigest()[:16]


def plan_runs(
    methods: Iterable[str], sparsities: Iterable[float], seeds: Iterable[int], pattern: str, more: Iterable[str] = ()
) -> tuple[Run, ...]:
    """Every run, each once: all of one seed, then all of the next, so that a sweep cut short still compares methods.

    Dense is trained once per seed; an N:M pattern has one sparsity, so there ``sparsities`` must be empty.

    Args:
        methods: names of methods.
        sparsities: fractions of zeros in [0, 1).
        seeds: of all randomness of a run.
        pattern: of every method but dense.
        more: single points beside the grid, each ``method:sparsity``.

    Raises:
        UserError: a method, a sparsity or the pattern does not exist, or they do not fit together.
    """
    points: list[tuple[str, float | None]] = []
    wanted: list[float | None] = list(sparsities)
    for method in methods:
        points += [(method, None)] if method == "dense" else [(method, sparsity) for sparsity in wanted or [None]]
    points += [_point(text) for text in more]
    if not points:
        raise UserError("a sweep needs at least one run; give --methods, for instance dense,st3,gmp")
    for method, sparsity in points:
        find_method(method)
        if method != "dense" and sparsity is None and ":" not in pattern:
            raise UserError(f"--sparsities: {method} needs fractions of zeros in [0, 1), for instance 0.9,0.95")
        if method != "dense":
            SparsityPlan(sparsity=sparsity, pattern=pattern)
    runs = [
        Run(method, "unstructured" if method == "dense" else pattern, sparsity, seed)
        for seed in seeds
        for method, sparsity in points
    ]
    return tuple(dict.fromkeys(runs))


def command_of(sweep: Sweep, run: Run, threads: int) -> list[str]:
    """Arguments of ``python -m train`` for a run; it goes on from the last saved state if there is one."""
    arguments = [sweep.recipe, "--method", run.method, "--seed", str(run.seed)]
    if run.method != "dense":
        arguments += ["--pattern", run.pattern]
    if run.sparsity is not None:
        arguments += ["--sparsity", f"{run.sparsity:g}"]
    if sweep.data is not None:
        arguments += ["--data", str(sweep.data)]
    folders = ["--out", str(checkpoint_of(sweep, run)), "--evaluation", str(sweep.evaluation)]
    machine = ["--device", sweep.device, "--threads", str(threads)]
    return [*arguments, *folders, *machine, "--resume", "--json", *sweep.options]


def checkpoint_of(sweep: Sweep, run: Run) -> Path:
    """Folder of a run's checkpoint."""
    return sweep.out / "checkpoints" / run.name


def refuse_own_options(options: Iterable[str]) -> None:
    """Raise a ``UserError`` if an extra option is one that the sweep gives itself."""
    for option in options:
        name = option.partition("=")[0]
        if name in OWN_OPTIONS:
            raise UserError(
                f"{name} cannot stand behind --, the sweep gives it to each run itself; use the sweep's own options"
            )


def numbers(text: str, kind: type[float] | type[int], option: str) -> list[float]:
    """Read ``0.9,0.95``.

    Raises:
        UserError: one of them is no such number.
    """
    found: list[float] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            found.append(kind(part))
        except ValueError as error:
            raise UserError(f"{option} takes numbers with commas between them, got {part!r} in {text!r}") from error
    return found


def _point(text: str) -> tuple[str, float | None]:
    method, _, sparsity = text.partition(":")
    try:
        return method, float(sparsity)
    except ValueError as error:
        raise UserError(f"--add takes method:sparsity, for instance st3:0.99, got {text!r}") from error
