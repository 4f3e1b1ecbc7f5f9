"""One optimiser step, and what must be saved to take the next one later."""

from __future__ import annotations

import gc
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol, cast, final

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from runtime.errors import UserError
from st3.layers import PROJECTIONS, prunable_layers
from st3.pruner import DENSE, Pruner
from st3.registry import attach
from train.distill import Network, load_teacher, loss_of
from train.distributed import World
from train.ema import Average
from train.finetune import FrozenMasks
from train.graph_step import GraphStep
from train.optimizer import make_optimizer, momentum, restore_momentum, set_rate
from train.precision import autocast, grad_scaler
from train.recipe import Recipe
from train.seeds import derive
from train.settings import Settings
from train.start import load_start
from train.state import State
from train.sums import Sums, Totals


class Execution(msgspec.Struct, frozen=True):
    """How the steps are executed; it decides speed and rounding, not what is computed.

    Attributes:
        graph: capture the step in a CUDA graph.
        compile: run the network through ``torch.compile``.
        start: ``--init-from``; empty for random weights.
        teacher: the teacher's checkpoint.
    """

    graph: bool = False
    compile: bool = False
    start: str = ""
    teacher: Path | None = None


class Sparsifier(Protocol):
    """What keeps the weights sparse: a pruner, and after its bake the frozen masks."""

    @property
    def threshold(self) -> Tensor:
        """The present global threshold, a scalar."""

    @property
    def capturable(self) -> bool:
        """Whether the step that was last aimed at may be captured in a graph."""

    def aim(self, progress: float) -> None:
        """Bring the numbers of a step to the device."""

    def adjust_gradients(self) -> None:
        """Change the gradients between backward pass and clipping."""

    def update(self) -> None:
        """Device work after the optimiser's step."""


@final
class Trainer:
    """Model, pruner and optimiser of one run.

    Attributes:
        model: the network itself, without what trains it on many processes.
        pruner: of the main part of the run; baked when fine-tuning begins.
        learning_rate: of the last step.
        untrained: what ``--init-from`` had no weights for.
    """

    def __init__(
        self,
        recipe: Recipe,
        settings: Settings,
        device: torch.device,
        execution: Execution,
        world: World,
        projections: bool = True,
    ) -> None:
        """Build the network and attach the method; ``projections`` is ``State.projections``."""
        torch.manual_seed(derive(settings.seed, "weights"))
        model = recipe.model()
        self.untrained = load_start(execution.start, model) if execution.start else []
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        self.model = model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
        left = () if projections else _projections(self.model)
        plan = msgspec.structs.replace(settings.plan, exempt=(*settings.plan.exempt, *left))
        self.pruner: Pruner = attach(self.model, plan, settings.method)
        self.pruner.patterns |= dict.fromkeys(left, (DENSE, "the run began with a version that left it dense"))
        self.learning_rate = 0.0
        self._recipe, self._settings, self._device, self._layout = recipe, settings, device, layout
        self._execution, self._world, self._projections = execution, world, projections
        self._optimizer = make_optimizer(self.model, self.pruner, recipe, projections)
        self._parameters = list(self.model.parameters())
        self._scaler = grad_scaler(settings.precision, device)
        self._teacher: Network | None = load_teacher(execution.teacher, device) if execution.teacher else None
        self._sums = Sums(device)
        self._masks: FrozenMasks | None = None
        self._purpose = "forward" if world.first else f"forward of {world.rank}"
        self._prepare()

    def _prepare(self) -> None:
        """Make what depends on the model's present parts; they change with the bake."""
        self._sparsifier: Sparsifier = self._masks or self.pruner
        self._average = Average(self.model, self._recipe.ema) if self._recipe.ema else None
        self._graph = GraphStep(self._body) if self._execution.graph else None
        self._network: nn.Module | None = None
        if self._world.size > 1:
            gc.collect()  # the wrapper of before still listens to the gradients
        self._network = self._world.wrap(self.model)
        self._forward = cast("Network", torch.compile(self._network) if self._execution.compile else self._network)

    def step(self, images: Tensor, labels: Tensor, number: int) -> None:
        """Take optimiser step ``number`` (from 0) on this process's share of a batch."""
        settings, recipe = self._settings, self._recipe
        progress = number / settings.steps
        factor = recipe.rate(progress) if number < settings.steps else recipe.finetune_rate
        self.learning_rate = recipe.learning_rate * factor
        set_rate(self._optimizer, self.learning_rate)
        self._sparsifier.aim(min(1.0, (number + 1) / settings.steps))
        torch.manual_seed(derive(settings.seed, self._purpose, number))  # for dropout
        self.model.train()
        # a step in which the method does something else (RigL's exchange of weights) runs one by one
        body = self._graph if self._graph is not None and self._sparsifier.capturable else self._body
        body(images.to(memory_format=self._layout), labels)

    def _body(self, images: Tensor, labels: Tensor) -> None:
        """Device work only: nothing in here may wait for the device, and all of it can be captured."""
        parts = self._recipe.accumulate
        losses, right = [], []
        self._optimizer.zero_grad(set_to_none=True)
        for number, (picture, label) in enumerate(zip(images.chunk(parts), labels.chunk(parts), strict=True)):
            # gradients are exchanged once, with the last part's
            self._exchange(number + 1 == parts)
            with autocast(self._settings.precision, self._device):
                with self._each_weight_once():
                    logits = self._forward(picture)
                answers = self._teacher(picture) if self._teacher is not None else None
                loss = loss_of(logits, label, answers, self._recipe)
            torch.autograd.backward(self._scaler.scale(loss / parts))
            losses.append(loss.detach())
            right.append((logits.detach().argmax(1) == label).sum())
        self._scaler.unscale_(self._optimizer)
        self._sparsifier.adjust_gradients()
        nn.utils.clip_grad_norm_(self._parameters, self._recipe.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._sparsifier.update()
        if self._average is not None:
            self._average.update()
        self._sums.add(torch.stack(losses).mean(), torch.stack(right).sum())

    def _each_weight_once(self) -> AbstractContextManager[None]:
        # torch's attention asks for its weight three times a call; a compiled network drops what it does not use
        return nullcontext() if self._execution.compile else parametrize.cached()

    def _exchange(self, wanted: bool) -> None:
        if isinstance(self._network, nn.parallel.DistributedDataParallel):
            self._network.require_backward_grad_sync = wanted

    def totals(self, batch_size: int) -> Totals:
        """What the steps since the last look came to; ``batch_size`` is one process's."""
        return self._sums.take(self.model, self._sparsifier.threshold, batch_size, self._world)

    def settle(self) -> None:
        """Let the averaged weights, if there are any, take the place of the last ones."""
        if self._average is not None:
            self._average.write()
            self._sparsifier.aim(1.0)
            self._sparsifier.update()

    def choose(self, weights: dict[str, Tensor]) -> None:
        """Let selected weights, thresholds included, take the place of the last ones."""
        self.model.load_state_dict(weights)
        if self._average is not None:
            # the averaged weights were selected with the thresholds of the day
            self._sparsifier.aim(1.0)
            self._sparsifier.update()

    @property
    def finetuning(self) -> bool:
        """Whether the masks are frozen."""
        return self._masks is not None

    def begin_finetune(self) -> None:
        """Bake, freeze the masks, and go on with the same optimiser."""
        self.pruner.bake()
        self._world.copy_first(self.model)  # statistics of batch normalisations are each process's own
        self._masks = FrozenMasks(self.model)
        self._parameters = list(self.model.parameters())
        self._prepare()

    def bake(self) -> None:
        """Make every layer a plain one, if fine-tuning has not done so."""
        if self._masks is None:
            self.pruner.bake()

    @property
    def average(self) -> Average | None:
        """The moving average of the weights, where the recipe has one."""
        return self._average

    def state(self) -> State:
        """Weights, thresholds, statistics, momentum, average and masks by name, and the gradient scaler's numbers."""
        parts = {
            "model": self.model.state_dict(),
            "momentum": momentum(self._optimizer, self.model),
            "average": self._average.tensors() if self._average is not None else {},
            "mask": self._masks.tensors() if self._masks is not None else {},
        }
        tensors = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
        scaler = {name: float(value) for name, value in self._scaler.state_dict().items()}
        return State(tensors, scaler, projections=self._projections)

    def restore(self, state: State, step: int) -> None:
        """Put back what ``state`` gave after ``step`` steps.

        Raises:
            UserError: the tensors are of another network.
        """
        if step > self._settings.steps:
            self.begin_finetune()
        try:
            self.model.load_state_dict(part_of(state.tensors, "model"))
            if self._average is not None:
                self._average.restore(part_of(state.tensors, "average"))
            if self._masks is not None:
                self._masks.restore(part_of(state.tensors, "mask"))
        except (RuntimeError, KeyError) as error:
            raise UserError("the saved state is of another network; train without --resume") from error
        restore_momentum(self._optimizer, self.model, part_of(state.tensors, "momentum"))
        if state.scaler:
            counts = {name: int(state.scaler[name]) for name in ("_growth_tracker", "growth_interval")}
            self._scaler.load_state_dict({**state.scaler, **counts})


def _projections(model: nn.Module) -> tuple[str, ...]:
    return tuple(name for name, layer in prunable_layers(model).items() if layer.leaf in PROJECTIONS)


def part_of(tensors: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """The tensors whose name begins with ``part``, named without it."""
    return {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")}
