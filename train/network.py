"""Finds a network by its name: one of torchvision's or timm's, or what a function of the user's returns."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec
import torch
from torch import nn

from runtime.errors import UserError
from st3.layers import prunable_layers
from st3.outputs import name_outputs

Argument: TypeAlias = int | float | bool | str
Make: TypeAlias = Callable[[], nn.Module]

TORCHVISION, TIMM = "torchvision:", "timm:"

# their second classifier exists in training alone, and would make the answer a tuple
_WITHOUT_AUXILIARY: dict[str, dict[str, Argument]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


class Reference(msgspec.Struct, frozen=True):
    """What a checkpoint keeps of a network that no recipe made: its name, and the arguments of what builds it.

    ``name`` is ``torchvision:NAME``, ``timm:NAME`` or ``package.module:function``.
    """

    name: str
    arguments: dict[str, Argument] = {}

    @property
    def short(self) -> str:
        """For the name of a folder."""
        return self.name.rpartition(":")[2].replace("/", "-")


def parse_reference(name: str, arguments: tuple[str, ...] = ()) -> Reference:
    """Read ``--model`` and its ``--model-arg key=value``; a name alone is one of torchvision's.

    Raises:
        UserError: an argument is no pair.
    """
    pairs = {}
    for text in arguments:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise UserError(f"--model-arg {text}: give key=value, for instance width=32")
        pairs[key] = _value(value)
    return Reference(name if ":" in name else TORCHVISION + name, pairs)


def _value(text: str) -> Argument:
    """A number, true or false; anything else is a string."""
    try:
        return msgspec.json.decode(text.lower() if text in ("True", "False") else text, type=int | float | bool)
    except msgspec.DecodeError:
        return text


def factory(reference: Reference, classes: int | None) -> Make:
    """What builds the network with fresh weights.

    Args:
        reference: its name and arguments.
        classes: of the data; torchvision's and timm's networks get them unless the arguments say otherwise. ``None``
            leaves the network its own.

    Raises:
        UserError: there is no such network or function.
    """
    if reference.name.startswith(TORCHVISION):
        make = _torchvision(reference, classes)
    elif reference.name.startswith(TIMM):
        make = _timm(reference, classes)
    else:
        function = _function(reference.name)
        make = lambda: function(**reference.arguments)  # noqa: E731 - one line each
    return lambda: _built(reference, make)


def _built(reference: Reference, make: Callable[[], Any]) -> nn.Module:
    """Raises ``UserError`` whatever somebody else's code raises."""
    shown = f"--model {reference.name}" + (f" with {reference.arguments}" if reference.arguments else "")
    try:
        model = make()
    except UserError:
        raise
    except Exception as error:  # any type at all
        raise UserError(f"{shown} raised {type(error).__name__}: {_first(error)}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{shown} returned {type(model).__name__}; a function for st3 returns a torch.nn.Module")
    model.register_forward_hook(_main_output)
    return model


def _main_output(module: nn.Module, inputs: object, output: object) -> object:
    """Of a dictionary with nothing but ``out``, which torchvision's segmentation networks answer, its tensor."""
    del module, inputs
    return output["out"] if isinstance(output, Mapping) and set(output) == {"out"} else output


def _torchvision(reference: Reference, classes: int | None) -> Callable[[], Any]:
    from torchvision import models

    name = torchvision_name(reference)
    given: dict[str, Any] = {"weights": None, **_WITHOUT_AUXILIARY.get(name, {})}
    if name in models.list_models(module=models):
        given |= {} if classes is None else {"num_classes": classes}
    else:
        given["weights_backbone"] = None
    return lambda: models.get_model(name, **{**given, **reference.arguments})


def torchvision_name(reference: Reference) -> str:
    """The name that torchvision knows; a ``UserError`` with those like it where it knows none."""
    from torchvision import models

    name = reference.name.removeprefix(TORCHVISION)
    if name not in models.list_models():
        known = models.list_models(module=models)
        near = difflib.get_close_matches(name, known, n=3)
        meant = f"did you mean {', '.join(near)}?" if near else "torchvision.models.list_models() shows them"
        raise UserError(f"torchvision has no network {name!r}; {meant}")
    return name


def _timm(reference: Reference, classes: int | None) -> Callable[[], Any]:
    timm = import_timm(reference.name)
    name = reference.name.removeprefix(TIMM)
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name.split('.')[0]}*")[:8]) or "timm.list_models() shows them"
        raise UserError(f"timm has no network {name!r}; near ones: {near}")
    given = {} if classes is None else {"num_classes": classes}
    return lambda: timm.create_model(name, **{**given, **reference.arguments})


def import_timm(name: str) -> Any:
    """The package; a ``UserError`` where it is not installed."""
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise UserError(f"{name} needs timm, which is not installed: pip install 'st3[timm]'") from error


def _function(name: str) -> Callable[..., Any]:
    """``package.module:function``, looked up as Python would from the present folder."""
    module_name, _, path = name.partition(":")
    here = os.getcwd()  # noqa: PTH109 - sys.path holds strings
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"--model {name}: {module_name} imports {error.name}, which is not installed") from error
        raise UserError(
            f"--model {name}: there is no module {module_name} in {here} or on the Python path; give "
            f"package.module:function and run st3 where that can be imported"
        ) from error
    except Exception as error:  # the module's own code may raise anything
        raise UserError(
            f"--model {name}: importing {module_name} raised {type(error).__name__}: {_first(error)}"
        ) from (error)
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        what = "has nothing of that name" if found is None else f"has a {type(found).__name__} of that name"
        raise UserError(
            f"--model {name}: {module_name} {what}; give a function or class that returns a torch.nn.Module"
        )
    function: Callable[..., Any] = found
    return function


def answer_shapes(model: nn.Module, name: str, shape: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """The shape of each output of a network for one picture, the batch left out, by its name.

    Args:
        model: on the CPU; its mode is restored.
        name: for the message.
        shape: ``(C, H, W)`` of a picture.

    Raises:
        UserError: it does not take such pictures, its answer is not of tensors, or it has no layer to prune.
    """
    if not prunable_layers(model):
        raise UserError(f"--model {name} has no nn.Conv2d and no nn.Linear; there is nothing that a method could prune")
    training = model.training
    try:
        with torch.no_grad():
            answer = model.eval()(torch.zeros(2, *shape))
    except Exception as error:  # a network's code may raise anything
        raise UserError(
            f"--model {name} cannot take the data's pictures (channels, height, width) = {shape}: {_first(error)}; "
            f"give a network for these channels, or another --image-size"
        ) from error
    finally:
        model.train(training)
    shapes = {}
    for output, part in name_outputs(answer):
        if not isinstance(part, torch.Tensor) or part.dim() < 2 or len(part) != 2:
            what = f"tensor {tuple(answer.shape)}" if isinstance(answer, torch.Tensor) else type(answer).__name__
            raise UserError(
                f"--model {name} answers a batch of 2 with a {what}; st3 takes networks that answer with a tensor, or "
                f"several, with the batch first; of a detector give the backbone (docs/models.md)"
            )
        shapes[output] = tuple(part.shape[1:])
    return shapes


def refuse_misfit(make: Make, name: str, shape: tuple[int, int, int], classes: int) -> None:
    """Raise ``UserError`` unless a network takes the data's pictures and answers one number for each class."""
    with torch.random.fork_rng(devices=[]):
        answers = answer_shapes(make(), name, shape).values()
    if list(answers) != [(classes,)]:
        sizes = " and ".join("x".join(map(str, answer)) for answer in answers)
        raise UserError(
            f"--model {name} answers a picture with {sizes} numbers, and the data have {classes} "
            f"classes; give it as many outputs (--model-arg num_classes={classes}, or what the function calls it)"
        )


def _first(error: BaseException) -> str:
    return (str(error).strip() or "no message").splitlines()[0]
