"""AOTInductor: torch's own compiler, ahead of time, to one ``.pt2`` package. Dense."""

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


def architecture(wanted: str, device: str = "cpu") -> str:
    """Inductor compiles for the machine it runs on; the flag is the native backend's."""
    del isa
    return platform.machine()


def uses_zeros(device: str = "cpu") -> bool:
    """No kernel of it skips zeros."""
    return False


def several_batch_sizes() -> bool:
    """The package is compiled for one batch size."""
    return False


def build(network: Network, target: Target, folder: Path, effort: Effort) -> Built:
    """Compile ``payload/model.pt2``.

    Raises:
        UserError: the network is an ONNX file, or Inductor or the C++ compiler it calls refused it.
    """
    import torch

    del target, effort
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
