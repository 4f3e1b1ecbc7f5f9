"""The GPU of this machine: what it is, and how an artifact's architecture is compared with it."""

from __future__ import annotations

import functools
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def architecture() -> str | None:
    """``sm_90`` of the first GPU that torch can use; ``None`` where there is none."""
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return f"sm_{major}{minor}"


def name() -> str:
    """The GPU's name as its driver gives it; empty where there is none."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the driver, CUDA, cuDNN and torch; a timing holds for all of them alike."""
    import torch

    found = {"torch": str(torch.__version__), "cuda": str(torch.version.cuda)}
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None  # type: ignore[no-untyped-call]
    if cudnn is not None:
        found["cudnn"] = str(cudnn)
    driver = _driver()
    return found | ({"driver": driver} if driver else {})


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.partition("\n")[0].strip() if done.returncode == 0 else ""


def prepare(dtype: str) -> None:
    """Set what holds for the whole process: cuDNN measures its algorithms; float32 is float32, not TF32."""
    import torch

    torch.backends.cudnn.benchmark = True
    if dtype == "float32":
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False


def l2_bytes() -> int:
    """Bytes of the second-level cache, which is emptied before a cold measurement."""
    return int(_properties().L2_cache_size)


def _properties() -> torch._C._CudaDeviceProperties:
    import torch

    return torch.cuda.get_device_properties(0)
