"""A GPU's tensors in and out of an engine, by DLPack, without the host's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.errors import UserError
from runtime.tensors import chosen

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from runtime.engine import Engine
    from runtime.tensors import DLPack


def device_input(engine: Engine, inputs: Mapping[str, DLPack], device: torch.device) -> Tensor:
    """The input as a tensor on the engine's GPU, whatever library's it is.

    Raises:
        UserError: a name, shape or dtype is not the manifest's, or it lies elsewhere.
    """
    spec = engine.artifact.manifest.input
    if set(inputs) != {spec.name}:
        raise UserError(f"this artifact takes one input named {spec.name!r}, got {sorted(map(str, inputs))}")
    tensor = _tensor(inputs[spec.name], f"input {spec.name!r}", device)
    engine.refuse_unfit(tensor.shape, str(tensor.dtype).removeprefix("torch."))
    return tensor


def device_outputs(engine: Engine, out: Mapping[str, DLPack] | None, device: torch.device) -> dict[str, Tensor]:
    """By name what each output is written into: ``out``'s own memory, or a fresh tensor on the engine's GPU.

    Raises:
        UserError: a name, shape or dtype is not the manifest's, or it lies elsewhere.
    """
    import torch

    outputs = engine.artifact.manifest.outputs
    wanted = chosen(out, [spec.name for spec in outputs])
    found = {}
    for spec in outputs:
        if spec.name not in wanted:
            found[spec.name] = torch.empty(spec.shape, dtype=torch.float32, device=device)
            continue
        tensor = _tensor(wanted[spec.name], f"output {spec.name!r}", device)
        if tuple(tensor.shape) != spec.shape or tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"output {spec.name!r} must be float32 {spec.shape}, got {kind} {tuple(tensor.shape)}")
        found[spec.name] = tensor
    return found


def _tensor(value: object, what: str, device: torch.device) -> Tensor:
    import torch
    from torch.utils.dlpack import from_dlpack

    if isinstance(value, torch.Tensor):
        tensor = value.detach()
    elif hasattr(value, "__dlpack__"):
        try:
            tensor = from_dlpack(value)
        except Exception as error:  # each library refuses in its own way
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"{what} cannot be read by torch ({first}); give a tensor of {device}") from error
    else:
        raise UserError(f"{what} must be a tensor that has __dlpack__, got {type(value).__name__}")
    if tensor.device != device:
        raise UserError(
            f"{what} lies on {tensor.device}, this engine's memory is {device}; call run for a host's array"
        )
    return tensor
