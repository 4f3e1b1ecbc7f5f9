from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from runtime.data import Preprocessing
from runtime.errors import UserError
from st3.plan import SparsityPlan
from train.distributed import World
from train.loop import Job, fit, steps_of
from train.memory import MemoryDataset, flip
from train.optimizer import make_optimizer
from train.progress import Report, Reporter
from train.rates import cosine
from train.recipe import Recipe, digest
from train.settings import Settings
from train.state import StateStore
from train.trainer import Execution, Trainer


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


def job(method: str = "st3", pattern: str = "unstructured", recipe: Recipe = RECIPE, **changes: object) -> Job:
    sparsity = 0.0 if method == "dense" else None if ":" in pattern else 0.9
    plan = SparsityPlan(sparsity=sparsity, pattern=pattern)
    data = dataset()
    values: dict[str, object] = {
        "epochs": 3.0,
        "steps": steps_of(recipe.batch_size, data.size, 3, None),
        "seed": 0,
        **changes,
    }
    settings = Settings(
        recipe="toy", recipe_digest=digest(recipe), method=method, plan=plan, batch_size=recipe.batch_size, **values
    )
    return Job(recipe, settings, data, torch.device("cpu"), save_every=2)


class KilledError(Exception):
    pass


def run(job: Job, folder: Path, resume: bool = False, die_at: int | None = None) -> Trainer:
    store = StateStore(folder)
    with Reporter(store.log, "toy", job.settings.steps) as reporter:
        if die_at is not None:
            report = reporter.report

            def dying(summary: Report) -> None:
                report(summary)
                if summary.step >= die_at:
                    raise KilledError

            reporter.report = dying
        return fit(job, store, reporter, resume).trainer


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("method", "pattern"),
    [("dense", "unstructured"), ("st3", "unstructured"), ("st3", "2:4"), ("st3-sigma", "unstructured"), ("gmp", "2:4")],
)
@pytest.mark.parametrize("die_at", [4, 8])
def test_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    method: str, pattern: str, die_at: int, tmp_path: Path
) -> None:
    whole = run(job(method, pattern), tmp_path / "whole")
    with pytest.raises(KilledError):
        run(job(method, pattern), tmp_path / "killed", die_at=die_at)
    resumed = run(job(method, pattern), tmp_path / "killed", resume=True)
    assert same(whole.state().tensors, resumed.state().tensors)
    assert any(name.startswith("momentum.") for name in whole.state().tensors)
    logs = [
        [json.loads(line)["step"] for line in (tmp_path / f".{name}.training/log.jsonl").read_text().splitlines()]
        for name in ("whole", "killed")
    ]
    assert logs[0] == logs[1], "the log has no gap and no line twice"


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    first = run(job(), tmp_path / "a")
    assert same(first.state().tensors, run(job(), tmp_path / "b").state().tensors)
    assert not same(first.state().tensors, run(job(seed=1), tmp_path / "c").state().tensors)


def test_training_learns_and_reaches_its_sparsity(tmp_path: Path) -> None:
    trainer = run(job(steps=60, epochs=15.0), tmp_path / "x")
    lines = [json.loads(line) for line in (tmp_path / ".x.training/log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    assert lines[-1]["sparsity"] == pytest.approx(0.9, abs=1e-3)
    assert trainer.pruner.total_sparsity() == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"seed": 5}, r"seed 0 \(asked for 5\)"), ({"method": "gmp"}, "method 'st3'"), ({"pattern": "2:4"}, "pattern")],
)
def test_resuming_with_other_settings_is_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run(job(), tmp_path / "x", die_at=4)
    with pytest.raises(UserError, match=message):
        run(job(**changes), tmp_path / "x", resume=True)


def test_only_the_newest_complete_state_is_kept(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run(job(), tmp_path / "x", die_at=7)
    names = sorted(path.name for path in (tmp_path / ".x.training").iterdir())
    assert names == ["log.jsonl", "state-00000006"]


def test_half_written_state_is_ignored_and_a_damaged_one_refused(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run(job(), tmp_path / "x", die_at=7)
    home = tmp_path / ".x.training"
    (home / "part").mkdir()
    (home / "part/tensors.safetensors").write_bytes(b"half")
    store = StateStore(tmp_path / "x")
    found = store.load(job().settings)
    assert found is not None
    assert found[0].step == 6
    tensors = home / "state-00000006/tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-8])
    with pytest.raises(UserError, match="is damaged"):
        store.load(job().settings)


def test_starting_without_resume_forgets_the_old_state(tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run(job(seed=3), tmp_path / "x", die_at=7)
    fresh = run(job(), tmp_path / "x")
    assert same(fresh.state().tensors, run(job(), tmp_path / "y").state().tensors)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_state(tmp_path: Path) -> None:
    def explode(progress: float) -> float:
        return 1.0 if progress < 0.45 else float("nan")

    recipe = Recipe(
        data="toy", model=network, epochs=3, batch_size=16, learning_rate=0.1, rate=explode, momentum=0.9,
        weight_decay=0.0, begin=0.0, end=0.5,
    )  # fmt: skip
    # 12 steps: step 7 (progress 6 / 12) is the first with a rate of NaN, so the loss of step 8 is the first NaN
    with pytest.raises(UserError, match="the loss is nan at step 8 of 12"):
        run(job(recipe=recipe), tmp_path / "x")
    found = StateStore(tmp_path / "x").load(job(recipe=recipe).settings)
    assert found is not None
    assert found[0].step == 6
    assert all(tensor.isfinite().all() for tensor in found[1].tensors.values())


def test_weight_decay_only_on_latent_weights() -> None:
    trainer = Trainer(RECIPE, job().settings, torch.device("cpu"), Execution(), World())
    decayed, others = make_optimizer(trainer.model, trainer.pruner, RECIPE).param_groups
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    latent = [f"{index}.parametrizations.weight.original" for index in (0, 3, 6)]
    assert sorted(names[id(p)] for p in decayed["params"]) == latent
    assert sorted(names[id(p)] for p in others["params"]) == ["1.bias", "1.weight", "3.bias", "6.bias"]
    assert [decayed["weight_decay"], others["weight_decay"]] == [1e-3, 0]


def test_gradient_is_clipped() -> None:
    steps = []
    for clip in (1e9, 1e-3):
        recipe = Recipe(
            data="toy", model=network, epochs=3, batch_size=16, learning_rate=0.1, rate=lambda progress: 1.0,
            momentum=0.0, weight_decay=0.0, begin=0.0, end=0.5, clip_norm=clip,
        )  # fmt: skip
        trainer = Trainer(recipe, job("dense").settings, torch.device("cpu"), Execution(), World())
        before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
        trainer.step(torch.randn(16, 1, 8, 8), torch.arange(16) % 10, 0)
        moved = [after - start for after, start in zip(trainer.model.parameters(), before, strict=True)]
        steps.append(torch.cat([tensor.flatten() for tensor in moved]).norm().item())
    assert steps[1] == pytest.approx(1e-4, rel=1e-2)
    assert steps[0] > 10 * steps[1]


def test_too_short_a_run_is_refused() -> None:
    with pytest.raises(UserError, match="make no step"):
        steps_of(16, 10, 1, None)
