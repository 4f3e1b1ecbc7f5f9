"""A teacher and first weights: from checkpoints on disk, by the numbers, and refused where they do not fit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from train_toy import dataset, fitted, job, network, run, same, with_values

from runtime.errors import UserError
from st3.checkpoint import load_checkpoint, write_checkpoint
from train.distill import distillation, load_teacher, loss_of, teacher_digest
from train.loop import Fitted, Job
from train.run import describe
from train.start import load_start, start_digest
from train.trainer import Execution


def checkpoint(folder: Path, tmp_path: Path, wanted: Job | None = None) -> Fitted:
    from runtime.data import write_evaluation_set

    wanted = wanted or job("dense", steps=40, epochs=10.0)
    found = fitted(wanted, tmp_path / "teacher-run")
    found.trainer.bake()
    data = dataset()
    images, labels = data.evaluation()
    evaluation = write_evaluation_set(tmp_path / "e", data.name, images, labels, data.preprocessing, data.classes)
    info = describe(wanted, found, evaluation)
    write_checkpoint(folder, found.trainer.model, info, found.trainer.pruner.patterns)
    return found


def test_distillation_by_hand() -> None:
    student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    # at temperature 2: student softmax(1, 0), teacher softmax(0, 2)
    p, q = 1 / (1 + math.e), 1 / (1 + math.exp(2))
    student_p, teacher_p = (1 - p, p), (q, 1 - q)
    expected = 4 * sum(t * math.log(t / s) for t, s in zip(teacher_p, student_p, strict=True))
    assert distillation(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-5)
    assert distillation(teacher, teacher, 3.0).item() == pytest.approx(0, abs=1e-6)


def test_the_loss_mixes_both() -> None:
    torch.manual_seed(0)
    student, teacher, labels = torch.randn(5, 10), torch.randn(5, 10), torch.arange(5)
    recipe = with_values(teacher_weight=0.3, temperature=3.0)
    alone = loss_of(student, labels, None, recipe)
    expected = 0.7 * alone + 0.3 * distillation(student, teacher, 3.0)
    assert loss_of(student, labels, teacher, recipe).item() == pytest.approx(expected.item())
    assert alone.item() == pytest.approx(nn.functional.cross_entropy(student, labels).item())


def test_a_student_comes_nearer_to_its_teacher_and_resumes_exactly(tmp_path: Path) -> None:
    from train_toy import KilledError

    checkpoint(tmp_path / "teacher", tmp_path)
    teacher = load_teacher(tmp_path / "teacher", torch.device("cpu"))
    images, _ = next(dataset().plain(torch.arange(70), torch.device("cpu"), 70))
    answers = teacher(images)
    assert not answers.requires_grad
    distances = []
    for weight in (0.0, 1.0):
        wanted = job(
            recipe=with_values(teacher_weight=weight), steps=40, epochs=10.0,
            more={"execution": Execution(teacher=tmp_path / "teacher"), "save_every": 10},
        )  # fmt: skip
        student = run(wanted, tmp_path / f"s{weight}")
        distances.append(distillation(student.model.eval()(images), answers, 4.0).item())
    assert distances[1] < 0.7 * distances[0]
    with pytest.raises(KilledError):
        run(wanted, tmp_path / "killed", die_at=20)
    resumed = run(wanted, tmp_path / "killed", resume=True)
    assert same(student.state().tensors, resumed.state().tensors)
    assert not any("teacher" in name for name in student.state().tensors)


def test_a_teacher_of_another_data_set_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path / "teacher", tmp_path)
    data = dataset()
    digest = load_checkpoint(tmp_path / "teacher").info.files["weights.safetensors"]
    assert teacher_digest(tmp_path / "teacher", data.preprocessing, data.classes) == digest
    with pytest.raises(UserError, match=r"was trained for toy/test with 10 classes"):
        teacher_digest(tmp_path / "teacher", data.preprocessing, data.classes[:5])


def test_a_run_begins_at_a_checkpoints_weights(tmp_path: Path) -> None:
    found = checkpoint(tmp_path / "first", tmp_path)
    source = str(tmp_path / "first")
    model = network()
    load_start(source, model)
    assert same(model.state_dict(), found.trainer.model.state_dict())
    assert start_digest(source) == load_checkpoint(tmp_path / "first").info.files["weights.safetensors"]
    begun = run(job("dense", steps=1, more={"execution": Execution(start=source), "save_every": 1}), tmp_path / "x")
    cold = run(job("dense", steps=1, more={"save_every": 1}), tmp_path / "y")
    moved = [
        (weight - first).norm().item()
        for weight, first in zip(begun.model.parameters(), found.trainer.model.parameters(), strict=True)
    ]
    assert max(moved) < 1e-3  # the first step of the warm-up has the rate 0
    assert not same(begun.model.state_dict(), cold.model.state_dict())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.Sequential(nn.Conv2d(1, 8, 3)), r"it lacks 0.bias \(1 in all\), it has besides 1.bias"),
        (nn.Sequential(nn.Conv2d(1, 9, 3, bias=False), *list(network())[1:]), "it has another shape of 0.weight"),
    ],
)
def test_weights_of_another_network_are_refused(other: nn.Module, message: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "first", tmp_path)
    with pytest.raises(UserError, match=message):
        load_start(str(tmp_path / "first"), other)
