"""A GPU's tensors in and out of an engine, by DLPack, without the host's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.errors import UserError

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


def device_output(engine: Engine, out: Mapping[str, DLPack] | None, like: Tensor) -> Tensor:
    """What the answer is written into: ``out``'s own memory, or a fresh tensor ``like`` the engine's own.

    Raises:
        UserError: a name, shape or dtype is not the manifest's, or it lies elsewhere.
    """
    import torch

    spec = engine.artifact.manifest.output
    if out is None:
        return torch.empty(spec.shape, dtype=torch.float32, device=like.device)
    if set(out) != {spec.name}:
        raise UserError(f"this artifact has one output named {spec.name!r}, got {sorted(map(str, out))}")
    tensor = _tensor(out[spec.name], f"output {spec.name!r}", like.device)
    if tuple(tensor.shape) != spec.shape or tensor.dtype != torch.float32:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UserError(f"output {spec.name!r} must be float32 {spec.shape}, got {kind} {tuple(tensor.shape)}")
    return tensor


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
