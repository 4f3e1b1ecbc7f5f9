"""``st3 sparsify``: a trained dense network in, a sparse checkpoint out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from train.command import data_option, device_of, device_options, model_options, plan_options

if TYPE_CHECKING:
    import torch

    from runtime.data import EvaluationSet
    from st3.checkpoint import CheckpointInfo
    from st3.plan import SparsityPlan
    from train.dataset import Dataset
    from train.recipe import Recipe
    from train.sparsify import Accuracy, Source

_SPARSITY = 0.9


@click.command()
@click.argument("source")
@click.option("--one-shot", is_flag=True, help="Prune by magnitude at once and recalibrate; no training, no labels.")
@click.option(
    "--recalibrate", type=click.IntRange(min=0), default=2048, show_default=True, metavar="PICTURES",
    help="Training pictures from which --one-shot takes the statistics of batch normalisations; 0 keeps the old ones.",
)  # fmt: skip
@model_options
@plan_options(f"default: {_SPARSITY}")
@click.option(
    "--method", metavar="METHOD", default="st3", show_default=True, help="That tunes; `st3 train --help` lists them."
)
@click.option(
    "--epochs", type=click.FloatRange(min=0, min_open=True), help="Of tuning.  [default: half the recipe's, or 3]"
)
@click.option("--max-steps", type=click.IntRange(min=1), help="Make the tuning this many steps at most.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Pictures per step.  [default: recipe's, or 64]")
@click.option(
    "--learning-rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Peak rate.  [default: half the recipe's, or 0.01]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all randomness.")
@device_options
@data_option
@click.option(
    "--out", type=click.Path(path_type=Path), help="The checkpoint.  [default: runs/<recipe>/checkpoints/...]"
)
@click.option(
    "--evaluation", type=click.Path(path_type=Path), help="The evaluation set.  [default: runs/<recipe>/evaluation]"
)
@click.option("--resume", is_flag=True, help="Go on with a tuning from its last saved state.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def sparsify(source: str, **given: Any) -> None:
    """Make SOURCE, a trained dense network, sparse, and write a checkpoint.

    SOURCE is a checkpoint folder, a file of weights (.safetensors, or torch.save's .pt) with --model, the name of a
    network of torchvision's or timm's (its pretrained weights), or package.module:function, which returns a trained
    network. --data is a folder of pictures (train/CLASS/*, val/CLASS/*) or one of a recipe's data sets.

    Without --one-shot it is tuned with ST-3 on a short schedule while it becomes sparse. The accuracy is printed before
    and after.
    """
    from runtime.errors import UserError
    from st3.checkpoint import check_place
    from train.dataset import load_dataset, prepare_evaluation_set
    from train.network import parse_reference
    from train.options import make_plan
    from train.settings import checkpoint_name
    from train.sparsify import network_of, open_source

    where = device_of(given["device"], given["threads"])
    reference = parse_reference(given["model"], given["model_arg"]) if given["model"] else None
    if reference is None and given["model_arg"]:
        reference = parse_reference(source, given["model_arg"])
    found = open_source(source, reference, given["weights"], given["data"])
    plan = _plan(found.recipe, make_plan, given)
    folder = given["data"] or Path("data") / found.recipe.data.replace("_", "-")
    dataset = load_dataset(found.recipe.data, folder, given["image_size"] or found.side)
    make, classifies = network_of(found, dataset, maps=given["one_shot"])
    home = Path("runs") / found.name
    name = checkpoint_name("one-shot" if given["one_shot"] else given["method"], plan)
    out = given["out"] or home / "checkpoints" / f"{found.short}-{name}"
    check_place(out)
    if out.resolve() == Path(source).resolve():
        raise UserError(f"--out {out} is the network that is read; give another folder")
    evaluation = prepare_evaluation_set(dataset, given["evaluation"] or home / "evaluation") if classifies else None
    if given["one_shot"]:
        _one_shot(out, found, make, plan, dataset, evaluation, where, given)
    else:
        assert evaluation is not None
        _tune(out, found, make, plan, dataset, evaluation, where, given)


def _plan(recipe: Recipe, make_plan: Any, given: dict[str, Any]) -> SparsityPlan:
    sparsity = given["sparsity"]
    if sparsity is None and ":" not in given["pattern"]:
        sparsity = _SPARSITY
    plan: SparsityPlan = make_plan(
        recipe, given["method"], sparsity, given["pattern"], given["scope"], given["exempt"], given["layer_sparsity"]
    )
    return plan


def _one_shot(
    out: Path,
    source: Source,
    make: Any,
    plan: SparsityPlan,
    dataset: Dataset,
    evaluation: EvaluationSet | None,
    where: torch.device,
    given: dict[str, Any],
) -> None:
    from rich.console import Console

    from runtime.console import say, working
    from st3.reach import told
    from train.lock import locked
    from train.sparsify import sparsify_at_once

    with locked(out), working("sparsifying", steps=True) as tell:
        done = sparsify_at_once(
            out, source, make, plan, dataset, evaluation, given["recalibrate"], given["seed"], where, tell
        )
    stages = {"before": done.before, "pruned": done.pruned, "after": done.after} if evaluation is not None else {}
    how = f"recalibrated on {done.pictures} pictures" if done.pictures else "not recalibrated"
    if evaluation is None:
        how += ", accuracy not measured: the network does not answer with classes"
    info = done.checkpoint.info
    say(Console(stderr=True), told(info.prunable, info.beyond))
    _tell(out, info, stages, how, given["as_json"], done.pictures)


def _tune(
    out: Path,
    source: Source,
    make: Any,
    plan: SparsityPlan,
    dataset: Dataset,
    evaluation: EvaluationSet,
    where: torch.device,
    given: dict[str, Any],
) -> None:
    import msgspec

    from runtime.console import working
    from st3.registry import find_method
    from train.distributed import World
    from train.lock import locked
    from train.options import Options, make_job
    from train.run import completed, train_checkpoint
    from train.sparsify import Accuracy, measure
    from train.stop import StoppedError, stop_on_signals

    find_method(given["method"])
    changes = {"learning_rate": given["learning_rate"]} if given["learning_rate"] else {}
    size = given["batch_size"] or min(source.recipe.batch_size, dataset.size)
    recipe = msgspec.structs.replace(source.recipe, batch_size=size)
    options = Options(
        epochs=given["epochs"],
        max_steps=given["max_steps"],
        seed=given["seed"],
        init_from=source.start,
        changes=changes,
    )
    job, remark = make_job(source.name, recipe, given["method"], plan, options, dataset, where, World())
    with locked(out), stop_on_signals() as stop:
        with working("measuring the dense network", silent=True):
            before = measure(make().to(where), evaluation, where)
        checkpoint = completed(out, job.settings) if given["resume"] else None
        if checkpoint is None:
            try:
                checkpoint = train_checkpoint(out, job, evaluation, given["resume"], stop, remark)
            except StoppedError as stopped:
                click.echo(f"{stopped}; the state is saved, go on with --resume", err=True)
                raise SystemExit(stop.exit_code) from None
    assert checkpoint is not None
    info = checkpoint.info
    after = Accuracy(info.accuracy, info.loss)
    how = f"{info.steps} steps in {info.train_seconds:.1f} s"
    _tell(out, info, {"before": before, "after": after}, how, given["as_json"])


def _tell(
    out: Path, info: CheckpointInfo, stages: dict[str, Accuracy], how: str, as_json: bool, pictures: int | None = None
) -> None:
    import msgspec

    if as_json:
        document = {
            "checkpoint": str(out),
            "sparsity": info.sparsity,
            "prunable_weights": info.prunable,
            "beyond": info.beyond,
            **stages,
        }
        if pictures is not None:
            document["recalibration_pictures"] = pictures
        click.echo(msgspec.json.encode(document).decode())
        return
    told = "".join(f"  top-1 {name} {stage.accuracy:.4f}" for name, stage in stages.items())
    click.echo(f"{out}  sparsity {info.sparsity:.4f}{told}  {how}")
