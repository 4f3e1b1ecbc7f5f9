"""AOTInductor: torch's own compiler, ahead of time, to one ``.pt2`` package. Dense on CPUs."""

from __future__ import annotations

import importlib.metadata
import platform
import warnings
from pathlib import Path

from compile.backend import Built, Effort
from compile.native.isa import isa_for
from compile.network import Network
from runtime.artifact import Requirements, Target
from runtime.errors import UserError

REASON = "Inductor's CPU kernels are dense: a zero costs what any weight costs"


def unable(device: str, dtype: str = "float32") -> str | None:
    """It builds for both, on a CPU in float32; for a GPU that is not here a cost model chooses."""
    if device == "cuda" or dtype == "float32":
        return None
    return "the inductor backend computes in float32 on a CPU; native takes float16"


def architecture(wanted: str, device: str = "cpu") -> str:
    """On a CPU Inductor compiles for the machine it runs on; of GPUs the one here, or the one that was asked for."""
    if device == "cpu":
        return platform.machine()
    from compile.cuda.arch import gpu_architecture

    return gpu_architecture(wanted)


def uses_zeros(device: str = "cpu") -> bool:
    """Inductor's own kernels skip no zeros; the formats of the target cuda do."""
    return device == "cuda"


def several_batch_sizes() -> bool:
    """The package is compiled for one batch size."""
    return False


def build(network: Network, target: Target, folder: Path, effort: Effort) -> Built:
    """Compile ``payload/model.pt2``; for a GPU see ``compile.cuda.build``.

    Raises:
        UserError: the network is an ONNX file, or Inductor or the C++ compiler it calls refused it.
    """
    import torch

    if target.device == "cuda":
        from compile.cuda import build as cuda

        return cuda.build(network, target, folder, effort)
    del effort
    program = network.program()
    payload = folder / "payload"
    payload.mkdir(parents=True)
    path = payload / "model.pt2"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on Inductor's own settings
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs={"freezing": True}
            )
    except Exception as error:  # Inductor raises whatever failed inside it
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"Inductor cannot compile the network: {first}; use another backend") from error
    version = importlib.metadata.version("torch")
    needs = Requirements(
        system=platform.system(),
        machine=platform.machine(),
        cpu_flags=isa_for("native").cpu_flags,  # it compiles for the widest vectors it finds
        packages={"torch": version},
    )
    formats = {layer.name: ("dense", REASON) for layer in network.layers()}
    return Built(engine="inductor", formats=formats, requirements=needs)
