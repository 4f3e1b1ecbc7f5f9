"""TensorRT through torch-tensorrt, with ``sparse_weights=True``; the same plan, engine and layer table as tensorrt."""

from __future__ import annotations

from pathlib import Path

from torch.export.passes import move_to_device_pass

from compile.backend import Built, Effort
from compile.network import Network
from compile.tensorrt import choose, through_torch
from compile.tensorrt.artifact import layer_verdicts, result, write_payload, write_source
from compile.tensorrt.half_program import half_onnx, half_program
from compile.tensorrt.rehearsal import rehearse
from runtime.artifact import Target
from runtime.errors import UserError


def unable(device: str, dtype: str = "float32") -> str | None:
    """It builds for the NVIDIA GPU at hand, where torch-tensorrt is installed."""
    del dtype
    if device != "cuda":
        return "torch-tensorrt runs on NVIDIA GPUs; give --target cuda, or --backend native for a CPU"
    return through_torch.unable()


def architecture(wanted: str, device: str = "cuda") -> str:
    """``sm_90`` and the like; a ``UserError`` where the GPU here is another."""
    del device
    return choose.gpu_here(wanted)


def uses_zeros(device: str = "cpu") -> bool:
    """2:4 weights may run on sparse tensor cores; other zeros cost what any weight costs."""
    return device == "cuda"


def several_batch_sizes() -> bool:
    """A plan has one static batch."""
    return False


def build(network: Network, target: Target, folder: Path, effort: Effort) -> Built:
    """Write ``payload/model.plan`` and what ``tensorrt`` writes beside it.

    Raises:
        UserError: torch-tensorrt is missing or refused the network, or the network does not fit fp16.
    """
    if target.dtype != "float16":
        raise UserError(f"--backend torch_tensorrt builds for --dtype float16, got {target.dtype}")
    here = choose.gpu_here(target.architecture)
    module, library = through_torch.load()
    # the ONNX form is for the rehearsal and for the weights' names; what is built is the program
    program, ordered = half_program(network.program(), network.input_shape)
    model = half_onnx(program, network.input_name, network.output_names)
    deviations = rehearse(model, network)
    effort.report(f"torch-tensorrt is building for {here}")
    built = through_torch.build_through_torch(module, library, move_to_device_pass(program, "cuda"))
    verdicts = layer_verdicts(network, model, built, library, ordered)
    write_payload(folder / "payload", library, here, built.plan)
    write_source(folder / "source", model, built, verdicts)
    return result(network, verdicts, deviations, library)
