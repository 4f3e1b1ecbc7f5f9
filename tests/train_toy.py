"""A small network, a small data set and runs on them, which can be killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from runtime.data import Preprocessing, write_evaluation_set
from st3.plan import SparsityPlan
from train.data.fashion_mnist import CLASSES, load
from train.loop import Fitted, Job, fit, steps_of
from train.memory import MemoryDataset, flip
from train.progress import Report, Reporter
from train.rates import cosine
from train.recipe import Recipe, digest
from train.settings import Settings
from train.state import StateStore
from train.trainer import Trainer

FASHION = Path(__file__).parent.parent / "data/fashion-mnist"


def write_fashion_evaluation(folder: Path, pictures: int) -> None:
    """The first test pictures of Fashion-MNIST: all ten thousand take a small network a quarter of a minute."""
    dataset = load(FASHION)
    images, labels = dataset.evaluation()
    write_evaluation_set(folder, dataset.name, images[:pictures], labels[:pictures], dataset.preprocessing, CLASSES)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.Flatten(),
        nn.Dropout(0.2), nn.Linear(8 * 4, 10),
    )  # fmt: skip


def dataset(count: int = 70) -> MemoryDataset:
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, count)
    images = (random.integers(0, 60, (count, 1, 8, 8)) + labels[:, None, None, None] * 15).astype(np.uint8)
    pictures = (images, labels)
    return MemoryDataset(
        "toy/test", Preprocessing((1, 8, 8), (0.4,), (0.3,)), tuple("abcdefghij"), pictures, lambda: pictures, flip
    )


RECIPE = Recipe(
    data="toy", model=network, epochs=3, batch_size=16, learning_rate=0.1, rate=cosine(0.1), momentum=0.9,
    weight_decay=1e-3, begin=0.0, end=0.5, nesterov=True,
)  # fmt: skip


def make_plan(method: str, pattern: str = "unstructured") -> SparsityPlan:
    sparsity = 0.0 if method == "dense" else None if ":" in pattern else 0.9
    return SparsityPlan(sparsity=sparsity, pattern=pattern)


def job(
    method: str = "st3", pattern: str = "unstructured", recipe: Recipe = RECIPE, more: Any = None, **changes: Any
) -> Job:
    """``changes`` are settings, ``more`` are fields of the job."""
    data = dataset()
    values = {"epochs": 3.0, "steps": steps_of(recipe.batch_size, data.size, 3, None), "seed": 0, **changes}
    settings = Settings(
        recipe="toy",
        recipe_digest=digest(recipe),
        method=method,
        plan=make_plan(method, pattern),
        batch_size=recipe.batch_size,
        **values,
    )
    return Job(recipe, settings, data, torch.device("cpu"), **{"save_every": 2, **(more or {})})


class KilledError(Exception):
    pass


def fitted(job: Job, folder: Path, resume: bool = False, die_at: int | None = None) -> Fitted:
    store = StateStore(folder)
    with Reporter(store.log, "toy", job.settings.all_steps) as reporter:
        if die_at is not None:
            report = reporter.report

            def dying(summary: Report) -> None:
                report(summary)
                if summary.step >= die_at:
                    raise KilledError

            reporter.report = dying
        return fit(job, store, reporter, resume)


def run(job: Job, folder: Path, resume: bool = False, die_at: int | None = None) -> Trainer:
    return fitted(job, folder, resume, die_at).trainer


def with_values(**values: Any) -> Recipe:
    return msgspec.structs.replace(RECIPE, **values)


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
