"""TensorRT 10, 11 or for RTX: a strongly typed fp16 plan with sparse weights allowed, and what became of each layer."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto

from compile.backend import Built, Effort
from compile.network import Network
from compile.passes.order_channels import order_channels
from compile.passes.simplify import simplify
from compile.tensorrt import choose
from compile.tensorrt.artifact import layer_verdicts, result, write_payload, write_source
from compile.tensorrt.builder import build_plan
from compile.tensorrt.half_onnx import half_model, refuse_unknown
from compile.tensorrt.half_program import half_onnx, half_program
from compile.tensorrt.rehearsal import rehearse
from runtime.artifact import Target
from runtime.errors import UserError


def unable(device: str, dtype: str = "float32") -> str | None:
    """It builds for NVIDIA GPUs, where a TensorRT is installed."""
    del dtype
    if device != "cuda":
        return "TensorRT runs on NVIDIA GPUs; give --target cuda, or --backend native for a CPU"
    return choose.unable()


def architecture(wanted: str, device: str = "cuda") -> str:
    """``sm_90`` and the like; a ``UserError`` where no TensorRT here builds for it."""
    del device
    return choose.architecture(wanted)


def uses_zeros(device: str = "cpu") -> bool:
    """2:4 weights may run on sparse tensor cores; other zeros cost what any weight costs."""
    return device == "cuda"


def several_batch_sizes() -> bool:
    """A plan has one static batch."""
    return False


def build(network: Network, target: Target, folder: Path, effort: Effort) -> Built:
    """Write ``payload/model.plan``, and under ``source`` the fp16 model, the builder's log and the layer table.

    Raises:
        UserError: no TensorRT can build for the target, the network does not fit fp16, or TensorRT refused it.
    """
    if target.dtype != "float16":
        raise UserError(f"--backend tensorrt builds for --dtype float16, got {target.dtype}")
    library = choose.choose(target.architecture)
    effort.report("writing the fp16 model")
    model, ordered = write_model(network)
    deviations = rehearse(model, network)
    effort.report(f"{library.title} is building for {target.architecture}")
    built = build_plan(library, model, target.architecture)
    verdicts = layer_verdicts(network, model, built, library, ordered)
    write_payload(folder / "payload", library, target.architecture, built.plan)
    write_source(folder / "source", model, built, verdicts)
    return result(network, verdicts, deviations, library)


def write_model(network: Network) -> tuple[ModelProto, frozenset[str]]:
    """The fp16 model, from the compiler's graph; from torch's where the graph lacks an operator.

    With it the layers that are 2:4 by another order of their channels.

    Raises:
        UserError: neither has it, or fp16 is too small for a weight.
    """
    try:
        graph = simplify(network.graph())
        refuse_unknown(graph)
    except UserError:
        program, ordered = half_program(network.program(), network.input_shape)
        return half_onnx(program, network.input_name, network.output_names), ordered
    found = order_channels(graph)
    model = half_model(found.graph, network.input_shape[0], network.input_name, network.output_names)
    return model, found.layers
