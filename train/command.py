"""``st3 train``: a recipe in, a checkpoint out."""

from __future__ import annotations

import contextlib
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

if TYPE_CHECKING:
    import torch

    from st3.checkpoint import CheckpointInfo
    from train.dataset import Dataset
    from train.distributed import World
    from train.options import Options


def _method_help() -> str:
    # named by their files, since importing them would import torch
    folder = Path(__file__).parent.parent / "st3" / "methods"
    names = sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules([str(folder)]))
    return f"{', '.join(names[:-1])} or {names[-1]}."


_POSITIVE = click.FloatRange(min=0, min_open=True)
_Command: TypeAlias = Callable[..., Any]


def model_options(command: _Command) -> _Command:
    """The options that name a network."""
    for option in (
        click.option(
            "--weights",
            metavar="NAME",
            help="Trained weights of torchvision's or timm's network: DEFAULT or their name.",
        ),
        click.option(
            "--model-arg", multiple=True, metavar="KEY=VALUE", help="An argument of what builds it; repeatable."
        ),
        click.option(
            "--model",
            metavar="NAME",
            help="A network of yours: torchvision:resnet18 (or resnet18), timm:NAME, or package.module:function, which "
            "returns a torch.nn.Module.",
        ),
    ):
        command = option(command)
    return command


def plan_options(without: str) -> Callable[[_Command], _Command]:
    """The options that say how many zeros there shall be and where; ``without`` is what holds where none is given."""
    return lambda command: _plan_options(command, without)


def _plan_options(command: _Command, without: str) -> _Command:
    for option in (
        click.option(
            "--layer-sparsity", multiple=True, metavar="NAME=VALUE", help="One layer's own sparsity; repeatable."
        ),
        click.option(
            "--exempt", multiple=True, metavar="NAME", help="A layer that stays dense; wildcards; repeatable."
        ),
        click.option(
            "--scope",
            metavar="SCOPE",
            default="global",
            show_default=True,
            help="Of an unstructured threshold: global, uniform or erk.",
        ),
        click.option(
            "--pattern",
            metavar="PATTERN",
            default="unstructured",
            show_default=True,
            help="unstructured, N:M (2:4), 1xN (1x4) or channel.",
        ),
        click.option("--sparsity", type=float, help=f"Fraction of zeros in [0, 1); N:M fixes it.  [{without}]"),
    ):
        command = option(command)
    return command


def device_options(command: _Command) -> _Command:
    """The options that say where to compute."""
    threads = click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: torch's]")
    kinds = click.Choice(["auto", "cpu", "cuda"])
    return click.option("--device", type=kinds, default="auto", show_default=True)(threads(command))


def data_option(command: _Command) -> _Command:
    """The options that name the pictures."""
    size = click.option(
        "--image-size", type=click.IntRange(min=8), help="Side of pictures from folders, in pixels.  [default: 224]"
    )
    folder = click.Path(path_type=Path)
    return click.option("--data", type=folder, help="Folder of the data set.  [default: data/<data set>]")(
        size(command)
    )


@click.command()
@click.argument("recipe")
@model_options
@click.option("--method", metavar="METHOD", default="st3", show_default=True, help=_method_help())
@plan_options("needed by all but dense")
@click.option("--epochs", type=_POSITIVE, help="Passes over data.  [default: recipe's]")
@click.option("--max-steps", type=click.IntRange(min=1), help="Make the whole run this many steps at most.")
@click.option("--finetune-epochs", type=click.FloatRange(min=0), help="Passes after the bake.  [default: recipe's]")
@click.option("--batch-size", type=click.IntRange(min=1), help="Pictures per step.  [default: recipe's]")
@click.option("--learning-rate", type=_POSITIVE, help="Peak rate.  [default: recipe's]")
@click.option("--label-smoothing", type=click.FloatRange(0, 1, max_open=True), help="[default: recipe's]")
@click.option("--clip-norm", type=_POSITIVE, help="Largest norm of the gradient.  [default: recipe's]")
@click.option("--accumulate", type=click.IntRange(min=1), help="Parts that a batch is cut into.  [default: recipe's]")
@click.option("--ema", type=click.FloatRange(0, 1, max_open=True), help="Decay of averaged weights; 0: none.")
@click.option("--precision", metavar="TYPE", help="fp32, bf16 or fp16.  [default: recipe's on a GPU, fp32 on a CPU]")
@click.option("--channels-last/--no-channels-last", default=None, help="Memory layout NHWC.  [default: recipe's]")
@click.option("--compile", is_flag=True, help="Run the network through torch.compile.")
@click.option("--cuda-graph/--no-cuda-graph", default=None, help="Capture the step.  [default: where it can be]")
@click.option("--teacher", type=click.Path(path_type=Path), help="A dense checkpoint to learn from.")
@click.option("--temperature", type=_POSITIVE, help="Of the distillation.  [default: recipe's]")
@click.option("--teacher-weight", type=click.FloatRange(0, 1), help="Its share of the loss.  [default: recipe's]")
@click.option("--init-from", default="", metavar="CHECKPOINT|FILE|torchvision:WEIGHTS", help="The first weights.")
@click.option("--validate", type=click.IntRange(min=1), metavar="PICTURES", help="Hold out; keep the best weights.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all randomness.")
@device_options
@data_option
@click.option(
    "--loader",
    type=click.Choice(["torch", "dali"]),
    default="torch",
    show_default=True,
    help="Of folders of pictures; dali decodes on the GPU (extra: dali).",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="The checkpoint.  [default: runs/<recipe>/checkpoints/<name>]"
)
@click.option(
    "--evaluation", type=click.Path(path_type=Path), help="The evaluation set.  [default: runs/<recipe>/evaluation]"
)
@click.option("--resume", is_flag=True, help="Go on from the last saved state; do nothing if the checkpoint is there.")
@click.option("--save-every", type=click.IntRange(min=1), help="Steps between states.  [default: one every 30 s]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def train(**given: Any) -> None:
    """Train RECIPE with one method, and write a checkpoint.

    A run that is killed leaves its last saved state; the same command with --resume goes on from it. Ctrl-C and SIGTERM
    make it save its state and exit with status 130 or 143.

    On several GPUs: torchrun --nproc-per-node N -m train RECIPE ... Each process trains on its share of every batch,
    with the statistics of batch normalisations of that share; all must see the same --out.
    """
    # imported here, so that --help need not wait for torch
    from train.distributed import join, leave

    where = device_of(given["device"], given["threads"])
    world = join(where.type == "cuda")
    try:
        _train(where, world, **given)
    finally:
        leave()


def device_of(asked: str, threads: int | None) -> torch.device:
    """What ``--device`` and ``--threads`` ask for.

    Raises:
        UserError: there is no GPU.
    """
    import torch

    from runtime.errors import UserError

    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here; use --device cpu, or install a torch with CUDA")
    if threads is not None:
        torch.set_num_threads(threads)
    if asked == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.benchmark = True  # every step has the same shapes
    return torch.device("cuda")


_CHANGES = (
    "batch_size", "learning_rate", "label_smoothing", "clip_norm", "accumulate", "ema", "channels_last",
    "temperature", "teacher_weight", "finetune_epochs",
)  # fmt: skip
"""Options that replace a value of the recipe."""


def _train(where: torch.device, world: World, *, recipe: str, method: str, out: Path | None, **given: Any) -> None:
    from st3.checkpoint import check_place
    from st3.registry import find_method
    from train.dataset import prepare_evaluation_set
    from train.lock import locked
    from train.options import make_job, make_plan, refer
    from train.recipe import find_recipe
    from train.run import completed, train_checkpoint
    from train.settings import checkpoint_name
    from train.stop import StoppedError, stop_on_signals

    found, start = refer(find_recipe(recipe), given["model"], given["model_arg"], given["weights"], given["init_from"])
    find_method(method)
    plan = make_plan(
        found, method, given["sparsity"], given["pattern"], given["scope"], given["exempt"], given["layer_sparsity"]
    )
    options = _options(start, given)
    home = Path("runs") / recipe
    named = f"{found.reference.short}-" if found.reference else ""
    out = out or home / "checkpoints" / f"{named}{checkpoint_name(method, plan)}"
    check_place(out)
    dataset = _dataset(found.data, given)
    job, remark = make_job(recipe, found, method, plan, options, dataset, where, world)
    # torchrun starts all processes anew when one has died; they go on from the last state
    resume = given["resume"] or world.restarts > 0
    with locked(out) if world.first else contextlib.nullcontext(), stop_on_signals() as stop:
        checkpoint = completed(out, job.settings) if resume else None
        already = checkpoint is not None
        if checkpoint is None:
            folder = given["evaluation"] or home / "evaluation"
            pictures = prepare_evaluation_set(dataset, folder) if world.first else None
            try:
                checkpoint = train_checkpoint(out, job, pictures, resume, stop, remark)
            except StoppedError as stopped:
                click.echo(f"{stopped}; the state is saved, go on with --resume", err=True)
                raise SystemExit(stop.exit_code) from None
    if checkpoint is not None and world.first:
        _tell(checkpoint.folder, checkpoint.info, already, given["as_json"])


def _options(start: str, given: Mapping[str, Any]) -> Options:
    from train.options import Options

    return Options(
        epochs=given["epochs"],
        max_steps=given["max_steps"],
        seed=given["seed"],
        precision=given["precision"],
        compile=given["compile"],
        graph=given["cuda_graph"],
        validate=given["validate"] or 0,
        init_from=start,
        teacher=given["teacher"],
        save_every=given["save_every"],
        changes={name: given[name] for name in _CHANGES if given[name] is not None},
    )


def _dataset(name: str, given: Mapping[str, Any]) -> Dataset:
    from train.dataset import load_dataset

    dataset = load_dataset(name, given["data"] or Path("data") / name.replace("_", "-"), given["image_size"])
    return dataset.with_dali() if given["loader"] == "dali" else dataset


def _tell(folder: Path, info: CheckpointInfo, already: bool, as_json: bool) -> None:
    import msgspec

    if as_json:
        click.echo(msgspec.json.encode({"checkpoint": str(folder), **msgspec.to_builtins(info)}).decode())
        return
    steps = info.steps + info.finetune_steps
    how = "already complete" if already else f"{steps} steps in {info.train_seconds:.1f} s"
    click.echo(f"{folder}  top-1 {info.accuracy:.4f}  loss {info.loss:.4f}  sparsity {info.sparsity:.4f}  {how}")
