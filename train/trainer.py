"""One optimiser step, and what must be saved to take the next one later."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.errors import UserError
from st3.layers import prunable_layers
from st3.registry import attach
from train.recipe import Recipe
from train.seeds import derive
from train.settings import Settings


@final
class Trainer:
    """Model, pruner and optimiser of one run."""

    def __init__(self, recipe: Recipe, settings: Settings, device: torch.device) -> None:
        torch.manual_seed(derive(settings.seed, "weights"))
        self.model = recipe.model().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.pruner = attach(self.model, settings.plan, settings.method)
        self.learning_rate = 0.0
        self._recipe, self._settings, self._device = recipe, settings, device
        self._optimizer = make_optimizer(self.model, recipe)
        self._half = recipe.half and device.type == "cuda"
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._half)

    def step(self, images: Tensor, labels: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Take optimiser step ``number`` (from 0).

        Returns:
            Loss and number of right answers on this batch before the step, as scalar tensors.
        """
        recipe, total = self._recipe, self._settings.steps
        self.learning_rate = recipe.learning_rate * recipe.rate(number / total)
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        torch.manual_seed(derive(self._settings.seed, "forward", number))  # for dropout
        self.model.train()
        images = images.to(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, dtype=torch.float16, enabled=self._half):
            logits = self.model(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        self._optimizer.zero_grad()
        torch.autograd.backward(self._scaler.scale(loss))
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self.pruner.step((number + 1) / total)
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()

    def tensors(self) -> dict[str, Tensor]:
        """Weights, thresholds, statistics and momentum by name."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            momentum = self._optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum
        return tensors

    def scaler_state(self) -> dict[str, float]:
        """State of the gradient scaler; empty where there is none."""
        return {name: float(value) for name, value in self._scaler.state_dict().items()}

    def restore(self, tensors: dict[str, Tensor], scaler: dict[str, float]) -> None:
        """Put back what ``tensors`` and ``scaler_state`` gave.

        Raises:
            UserError: the tensors are of another network.
        """
        weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
        try:
            self.model.load_state_dict(weights)
        except RuntimeError as error:
            raise UserError("the saved state is of another network; train without --resume") from error
        for name, parameter in self.model.named_parameters():
            momentum = tensors.get(f"momentum.{name}")
            if momentum is not None:
                # in the parameter's memory order, so that the update runs through the same vector code as before
                self._optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
        if scaler:
            self._scaler.load_state_dict({**scaler, "_growth_tracker": int(scaler["_growth_tracker"])})


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD with weight decay on the (latent) weights of convolutions and linear layers, none on anything else."""
    decayed = {
        id(parameter)
        for layer in prunable_layers(model).values()
        for name, parameter in layer.named_parameters()
        if name in ("weight", "parametrizations.weight.original")
    }
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov)
