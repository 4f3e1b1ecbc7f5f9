from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from train_toy import RECIPE, KilledError, fitted, job, network, run, same, with_values

from runtime.errors import UserError
from train.distributed import World
from train.loop import split, steps_of
from train.optimizer import make_optimizer
from train.recipe import Recipe
from train.state import StateStore
from train.trainer import Execution, Trainer


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
    with pytest.raises(UserError, match=r"10 training pictures do not fill a batch of 16; give --batch-size 10"):
        steps_of(16, 10, 1, None)
    with pytest.raises(UserError, match=r"make no step; give more --epochs"):
        steps_of(10, 10, 0.1, None)


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        ({"accumulate": 4}, {}),
        ({"ema": 0.8}, {}),
        ({}, {"precision": "bf16"}),
        ({}, {"precision": "fp16"}),
        ({}, {"held_out": 20}),
        ({"ema": 0.8}, {"finetune_steps": 6, "held_out": 20}),
    ],
    ids=str,
)
@pytest.mark.parametrize("die_at", [4, 10, 16])
def test_resuming_is_exact_with_every_part_of_the_loop(
    values: dict[str, object], settings: dict[str, object], die_at: int, tmp_path: Path
) -> None:
    if die_at > 12 and "finetune_steps" not in settings:
        pytest.skip("this run has 12 steps")
    wanted = job(recipe=with_values(**values), **settings)
    whole = fitted(wanted, tmp_path / "whole")
    with pytest.raises(KilledError):
        fitted(wanted, tmp_path / "killed", die_at=die_at)
    resumed = fitted(wanted, tmp_path / "killed", resume=True)
    assert same(whole.trainer.state().tensors, resumed.trainer.state().tensors)
    assert whole.trainer.state().scaler == resumed.trainer.state().scaler
    assert whole.best == resumed.best
    assert (whole.best is not None) == bool(wanted.settings.held_out)


def test_parts_of_a_batch_make_the_whole_ones_gradient(tmp_path: Path) -> None:
    # no batch normalisation, whose statistics are each part's own, and no dropout
    plain = lambda: torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, 2), torch.nn.Flatten(), torch.nn.Linear(72, 10))  # noqa: E731
    whole = run(job(recipe=with_values(model=plain)), tmp_path / "a").state().tensors
    parts = run(job(recipe=with_values(model=plain, accumulate=4)), tmp_path / "b").state().tensors
    assert not same(whole, parts)
    for name, value in whole.items():
        assert torch.allclose(value, parts[name], atol=1e-5), name


def test_the_average_takes_the_weights_place_and_has_the_plans_sparsity(tmp_path: Path) -> None:
    last = run(job(steps=60, epochs=15.0), tmp_path / "a")
    mean = run(job(recipe=with_values(ema=0.9), steps=60, epochs=15.0), tmp_path / "b")
    assert mean.average is not None
    weights = dict(mean.model.named_parameters())
    assert all(torch.equal(weights[name], mean.average.tensors()[name]) for name in weights)
    different = [not torch.equal(value, weights[name]) for name, value in last.model.named_parameters()]
    assert all(different)
    mean.bake()
    assert mean.pruner.total_sparsity() == pytest.approx(0.9, abs=1e-3)


def test_fine_tuning_trains_on_with_the_masks_of_the_bake(tmp_path: Path) -> None:
    main = run(job(), tmp_path / "a")
    main.bake()
    tuned = run(job(finetune_steps=8), tmp_path / "b")
    for (name, before), after in zip(main.model.named_parameters(), tuned.model.parameters(), strict=True):
        assert not torch.equal(before, after), name
        if before.dim() > 1:
            assert torch.equal(before == 0, after == 0), name
    assert tuned.pruner.total_sparsity() == pytest.approx(0.9, abs=2e-3)
    assert tuned.learning_rate == pytest.approx(0.1 * 0.01)


def test_only_weights_of_full_sparsity_are_selected(tmp_path: Path) -> None:
    wanted = job(held_out=20, steps=60, epochs=20.0, recipe=with_values(end=0.5))
    found = fitted(wanted, tmp_path / "x")
    assert found.best is not None
    assert found.best.step >= 30
    assert found.trainer.pruner.total_sparsity() == pytest.approx(0.9, abs=1e-3)
    training, held_out = split(70, wanted.settings)
    assert sorted([*training.tolist(), *held_out.tolist()]) == list(range(70))
    assert len(held_out) == 20


def test_the_selected_weights_are_those_that_were_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([0.5, 0.7, 0.6, 0.7, 0.1] + [0.2] * 20)
    monkeypatch.setattr("train.loop.accuracy_of", lambda model, batches: next(told))
    best = fitted(job(held_out=20, steps=27, epochs=9.0), tmp_path / "x")
    assert best.best is not None
    # one epoch has three steps; full sparsity is there after step 13.5, so the offers are made at 15, 18, 21, 24
    assert (best.best.step, best.best.accuracy) == (24, 0.7)


def test_a_training_that_diverges_is_stopped(tmp_path: Path) -> None:
    recipe = with_values(learning_rate=300.0, clip_norm=1e9, model=lambda: torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 10)))  # fmt: skip
    with pytest.raises(UserError, match=r"has diverged.*of step 2, is kept.*the learning rate is 300"):
        run(job("dense", recipe=recipe), tmp_path / "x")
