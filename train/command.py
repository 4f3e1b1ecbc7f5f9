"""``st3 train``: a recipe in, a checkpoint out."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("recipe")
@click.option("--method", default="st3", show_default=True, help="dense, st3, st3-sigma, gmp or ste.")
@click.option("--sparsity", type=float, help="Fraction of zeros in [0, 1); an N:M pattern fixes it.")
@click.option("--pattern", default="unstructured", show_default=True, help="unstructured, or N:M, for instance 2:4.")
@click.option("--epochs", type=click.FloatRange(min=0, min_open=True), help="Passes over data.  [default: recipe's]")
@click.option("--max-steps", type=click.IntRange(min=1), help="Make the whole run this many steps at most.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all randomness.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: torch's]")
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the data set.  [default: data/<data set>]")
@click.option(
    "--out", type=click.Path(path_type=Path), help="The checkpoint.  [default: runs/<recipe>/checkpoints/<name>]"
)
@click.option(
    "--evaluation", type=click.Path(path_type=Path), help="The evaluation set.  [default: runs/<recipe>/evaluation]"
)
@click.option("--resume", is_flag=True, help="Go on from the last saved state; do nothing if the checkpoint is there.")
@click.option("--save-every", type=click.IntRange(min=1), default=100, show_default=True, help="Steps between states.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def train(
    recipe: str,
    method: str,
    sparsity: float | None,
    pattern: str,
    epochs: float | None,
    max_steps: int | None,
    seed: int,
    device: str,
    threads: int | None,
    data: Path | None,
    out: Path | None,
    evaluation: Path | None,
    resume: bool,
    save_every: int,
    as_json: bool,
) -> None:
    """Train RECIPE with one method, and write a checkpoint.

    A run that is killed leaves its last saved state; the same command with --resume goes on from it.
    """
    # imported here, so that --help need not wait for torch
    import torch

    from runtime.errors import UserError
    from st3.plan import SparsityPlan
    from st3.registry import find_method
    from train.dataset import load_dataset, prepare_evaluation_set
    from train.loop import Job, steps_of
    from train.recipe import digest, find_recipe
    from train.run import completed, train_checkpoint
    from train.settings import Settings, checkpoint_name

    found = find_recipe(recipe)
    find_method(method)
    if method == "dense" and sparsity is None and pattern == "unstructured":
        sparsity = 0.0
    plan = SparsityPlan(sparsity=sparsity, pattern=pattern, begin=found.begin, end=found.end)
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here; use --device cpu, or install a torch with CUDA")
    where = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    if threads is not None:
        torch.set_num_threads(threads)
    home = Path("runs") / recipe
    out = out or home / "checkpoints" / checkpoint_name(method, plan)
    dataset = load_dataset(found.data, data or Path("data") / found.data.replace("_", "-"))
    epochs = found.epochs if epochs is None else epochs
    steps = steps_of(found, dataset, epochs, max_steps)
    settings = Settings(recipe, digest(found), method, plan, epochs, steps, found.batch_size, seed)
    checkpoint = completed(out, settings) if resume else None
    already = checkpoint is not None
    if checkpoint is None:
        pictures = prepare_evaluation_set(dataset, evaluation or home / "evaluation")
        checkpoint = train_checkpoint(out, Job(found, settings, dataset, where, save_every), pictures, resume)
    _tell(checkpoint.folder, already, as_json)


def _tell(folder: Path, already: bool, as_json: bool) -> None:
    import msgspec

    from st3.checkpoint import load_checkpoint

    info = load_checkpoint(folder, verify=False).info
    if as_json:
        click.echo(msgspec.json.encode({"checkpoint": str(folder), **msgspec.to_builtins(info)}).decode())
        return
    how = "already complete" if already else f"{info.steps} steps in {info.train_seconds:.1f} s"
    click.echo(f"{folder}  top-1 {info.accuracy:.4f}  loss {info.loss:.4f}  sparsity {info.sparsity:.4f}  {how}")
