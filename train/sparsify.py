"""Makes a trained dense network sparse: what it is, what it is tuned with, and the quick way without tuning."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from torch import nn

from runtime.data import EvaluationSet
from runtime.errors import UserError
from st3.checkpoint import INFO_FILE, Checkpoint, load_checkpoint, write_checkpoint
from st3.plan import SparsityPlan
from train.dataset import Dataset
from train.detect import data_key
from train.evaluate import evaluate
from train.network import (
    Make,
    Reference,
    answer_shapes,
    factory,
    parse_reference,
    refuse_misfit,
    torchvision_name,
)
from train.one_shot import METHOD, prune_at_once, recalibrate
from train.rates import cosine
from train.recipe import Recipe, digest, find_recipe, recipe_names
from train.seeds import derive, generator
from train.start import first_weights, load_start, start_digest, zoo_weights
from train.untrained_facts import untrained_info
from train.weight_file import is_weight_file

EPOCHS_SHARE = 0.5
"""Of a recipe's epochs: the weights are there already, and have to get used to the zeros only."""

RATE_SHARE = 0.5
"""Of a recipe's peak learning rate."""


class Source(msgspec.Struct, frozen=True):
    """A trained network.

    Attributes:
        name: of the recipe, for the new checkpoint.
        recipe: with a short schedule; its ``model`` or ``reference`` builds the network.
        start: where its weights are, as ``--init-from`` names them; empty where the user's function brings them.
        side: that its pictures have, where a checkpoint says so.
        short: for the name of a folder.
    """

    name: str
    recipe: Recipe
    start: str
    side: int | None
    short: str


class Accuracy(msgspec.Struct, frozen=True):
    """On the evaluation set: top-1 in [0, 1] and the mean cross-entropy."""

    accuracy: float
    loss: float


def open_source(text: str, reference: Reference | None, weights: str | None, data: Path | None) -> Source:
    """Find out what a user wants to make sparse.

    Args:
        text: a checkpoint's folder, a file of weights, or a network's name.
        reference: what builds the network; needed for a file.
        weights: of a model zoo, for a network's name.
        data: folder of the data; its files tell which data set it is.

    Raises:
        UserError: it is none of the three, or something is missing.
    """
    if (Path(text) / INFO_FILE).is_file():
        if weights is not None:
            raise UserError(f"--weights {weights}: the checkpoint {text} has weights of its own; leave it out")
        return _from_checkpoint(text, reference)
    if is_weight_file(text):
        if reference is None:
            raise UserError(f"{text} holds weights and no network; name what builds it with --model")
        start = text
    elif Path(text).exists():
        raise UserError(f"{text} is neither a checkpoint nor a file of weights (.safetensors, .pt)")
    else:
        reference = reference or parse_reference(text)
        if ":" not in text:
            _refuse_unknown(text, reference)
        own = not reference.name.startswith(("torchvision:", "timm:"))
        start = "" if own and weights is None else zoo_weights(reference, weights or "DEFAULT")
    if data is None:
        raise UserError(f"name the pictures that {text} was trained on: --data FOLDER (train/<class>/*, val/<class>/*)")
    key = data_key(data)
    return Source(f"sparsify-{key.replace('_', '-')}", _foreign(key, reference), start, None, reference.short)


def _refuse_unknown(text: str, reference: Reference) -> None:
    """A word alone may have been meant as a path or as one of torchvision's networks."""
    try:
        torchvision_name(reference)
    except UserError as error:
        raise UserError(f"there is no checkpoint or file {text}, and {error}") from error


def _from_checkpoint(text: str, reference: Reference | None) -> Source:
    info = load_checkpoint(Path(text)).info
    if info.recipe not in recipe_names():
        raise UserError(
            f"{text} is of the recipe {info.recipe}, which is not here (there are {', '.join(recipe_names())}); "
            f"give its weights.safetensors with --model and --data instead"
        )
    recipe = shortened(find_recipe(info.recipe))
    if info.model and reference is None:
        reference = Reference(info.model, info.model_arguments)
    if reference is not None:
        recipe = msgspec.structs.replace(recipe, reference=reference)
    side = info.preprocessing.shape[1] if recipe.data == "image_folder" else None
    return Source(info.recipe, recipe, text, side, Path(text).resolve().name)


def shortened(recipe: Recipe) -> Recipe:
    """A recipe's settings for a network that it has trained already."""
    return msgspec.structs.replace(
        recipe,
        epochs=recipe.epochs * EPOCHS_SHARE,
        learning_rate=recipe.learning_rate * RATE_SHARE,
        rate=cosine(warmup=0.05),
        begin=0.0,
        end=0.5,
        finetune_epochs=0.0,
    )


def _foreign(key: str, reference: Reference) -> Recipe:
    """For networks that came from elsewhere: what suits a network that is trained already."""
    return Recipe(
        data=key,
        model=factory(reference, None),
        reference=reference,
        epochs=3,
        batch_size=64,
        learning_rate=0.01,
        rate=cosine(warmup=0.05),
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-4,
        begin=0.0,
        end=0.5,
    )


def network_of(source: Source, dataset: Dataset, maps: bool) -> tuple[Make, bool]:
    """What builds the network with its trained weights, and whether its answer is one number for each class.

    Args:
        source: the trained network.
        dataset: its pictures.
        maps: whether a network that answers with maps (a segmentation network, a detector's backbone) will do.

    Raises:
        UserError: the network fits neither the pictures nor the classes, or the weights are another network's.
    """
    recipe, classes = source.recipe, len(dataset.classes)
    make = recipe.model if recipe.reference is None else factory(recipe.reference, classes)
    name = recipe.reference.name if recipe.reference is not None else source.name
    classifies = True
    if recipe.reference is not None:
        shapes = answer_shapes(make(), name, dataset.preprocessing.shape).values() if maps else ()
        classifies = not maps or [len(shape) for shape in shapes] == [1]
    if classifies:
        refuse_misfit(make, name, dataset.preprocessing.shape, classes)

    def trained() -> nn.Module:
        model = make()
        fresh = load_start(source.start, model) if source.start else []
        if fresh:
            raise UserError(
                f"{source.start} is for {len(first_weights(source.start)[fresh[0]])} classes and the data have "
                f"{classes}: its classifier is not trained; train it first (st3 train --method dense --weights ...)"
            )
        return model

    return trained, classifies


def measure(model: nn.Module, evaluation: EvaluationSet | None, device: torch.device) -> Accuracy:
    """Of a baked model; zeros where there are no pictures to measure on."""
    return Accuracy(*evaluate(model, evaluation, device)) if evaluation is not None else Accuracy(0.0, 0.0)


class OneShot(msgspec.Struct, frozen=True):
    """What the quick way came to: the dense network, just pruned, with new statistics of ``pictures`` pictures."""

    before: Accuracy
    pruned: Accuracy
    after: Accuracy
    pictures: int
    checkpoint: Checkpoint


def sparsify_at_once(
    out: Path,
    source: Source,
    make: Make,
    plan: SparsityPlan,
    dataset: Dataset,
    evaluation: EvaluationSet | None,
    pictures: int,
    seed: int,
    device: torch.device,
    tell: Callable[[str], None],
) -> OneShot:
    """Prune, recalibrate, measure, write.

    Args:
        out: the new checkpoint.
        source: the trained network.
        make: builds it.
        plan: pattern, sparsity and scope.
        dataset: its training pictures.
        evaluation: to measure on; ``None`` for a network that does not classify.
        pictures: training pictures to recalibrate on.
        seed: chooses them.
        device: where to compute.
        tell: is told what goes on.
    """
    began = time.perf_counter()
    model = make().to(device)
    tell("measuring the dense network")
    before = measure(model, evaluation, device)
    patterns = prune_at_once(model, plan)
    tell("measuring the pruned network")
    pruned = after = measure(model, evaluation, device)
    if pictures:
        tell(f"recalibrating on {min(pictures, dataset.size)} training pictures")
    seen = _recalibrate(model, dataset, pictures, seed, device)
    if seen:
        tell("measuring the recalibrated network")
        after = measure(model, evaluation, device)
    reference = source.recipe.reference
    info = untrained_info(
        plan,
        plan.pattern,
        recipe=source.name,
        recipe_digest=digest(source.recipe),
        method=METHOD,
        accuracy=after.accuracy,
        loss=after.loss,
        evaluation=evaluation.info.name if evaluation is not None else "none",
        preprocessing=dataset.preprocessing,
        classes=dataset.classes if evaluation is not None else (),
        seed=seed,
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        train_seconds=time.perf_counter() - began,
        execution=f"batch normalisations recalibrated on {seen} pictures" if seen else "eager",
        start=start_digest(source.start) if source.start else "",
        model=reference.name if reference else "",
        model_arguments=reference.arguments if reference else {},
    )
    return OneShot(before, pruned, after, seen, write_checkpoint(out, model, info, patterns))


def _recalibrate(model: nn.Module, dataset: Dataset, pictures: int, seed: int, device: torch.device) -> int:
    """Recalibrate on some training pictures; on how many, which is 0 where nothing keeps statistics."""
    if not pictures:
        return 0
    order = torch.randperm(dataset.size, generator=generator(torch.device("cpu"), seed, "recalibration"))
    torch.manual_seed(derive(seed, "recalibration"))
    return recalibrate(model, dataset.plain(order[:pictures], device, batch_size=128))
