"""The network's graph on disk: an exported program without weights and without pickle."""

from __future__ import annotations

import io
import logging
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from runtime.errors import UserError
from runtime.exported import read_program
from st3.outputs import as_named


def export_graph(model: nn.Module, shape: tuple[int, int, int]) -> ExportedProgram:
    """Export a model in eval mode with a dynamic batch dimension named ``batch``.

    Args:
        model: takes one ``float32`` tensor ``(B, C, H, W)`` and answers with one tensor, or with a dictionary, tuple or
            list of them; its mode is restored afterwards.
        shape: ``(C, H, W)`` of a picture.

    Raises:
        UserError: an output is no tensor, or two have one name.
    """
    training = model.training
    device = next(model.parameters()).device
    # two pictures: an example of one would be taken for a constant
    example = torch.zeros(2, *shape, device=device)
    # a plain dictionary is all that a file of any version of torch keeps: not a named tuple, not a class of the user's
    plain = model.register_forward_hook(lambda _module, _inputs, answer: as_named(answer))
    try:
        return torch.export.export(model.eval(), (example,), dynamic_shapes=({0: Dim("batch", min=1, max=65535)},))
    finally:
        plain.remove()
        model.train(training)


def save_graph(program: ExportedProgram, path: Path) -> None:
    """Write a program without its weights, which lie beside it as safetensors; the program is used up.

    Each weight is replaced by a view that repeats one zero, which takes four bytes, and the example input, which
    would be pickled, is left out.
    """
    for name, value in program.state_dict.items():
        empty = torch.zeros((), dtype=value.dtype).expand(value.shape)
        program.state_dict[name] = nn.Parameter(empty, requires_grad=False) if _is_parameter(value) else empty
    program.example_inputs = None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No complete tensor found")  # the repeated zeros, on purpose
        torch.export.save(program, path)
    read_program(path)


def load_graph(path: Path, weights: dict[str, Tensor]) -> ExportedProgram:
    """Read a program and give it its weights.

    Raises:
        UserError: the file is damaged, holds pickled data, or does not fit the weights.
    """
    raw = read_program(path)
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.ERROR)  # older torch warns that the archive has no example input
    try:
        program = torch.export.load(io.BytesIO(raw))  # what was looked at, whatever lies there now
    except Exception as error:  # torch raises many types; all mean that this file cannot be read
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} cannot be read by torch {torch.__version__}: {first}; train again") from error
    finally:
        logger.setLevel(level)
    for name, value in program.state_dict.items():
        given = weights.get(name)
        if given is None or given.shape != value.shape or given.dtype != value.dtype:
            found = "nothing" if given is None else f"{given.dtype} {tuple(given.shape)}"
            raise UserError(f"{path} needs the weight {name} {value.dtype} {tuple(value.shape)}, found {found}")
        program.state_dict[name] = nn.Parameter(given, requires_grad=False) if _is_parameter(value) else given
    return program


def _is_parameter(value: Tensor) -> bool:
    return isinstance(value, nn.Parameter)
