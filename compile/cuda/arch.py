"""Which GPU architecture a user asked for."""

from __future__ import annotations

import re

from runtime.errors import UserError


def gpu_architecture(wanted: str) -> str:
    """``sm_90``, as asked for, or that of the GPU here for ``native``.

    Raises:
        UserError: there is no GPU here and none was named, or the name is none of an architecture.
    """
    from runtime.cuda import gpu

    if wanted == "native":
        here = gpu.architecture()
        if here is None:
            raise UserError(
                "--target cuda: torch finds no NVIDIA GPU on this machine to measure on; name one, for instance "
                "--arch sm_90 (H100, H200), and a cost model chooses the formats"
            )
        return here
    if not re.fullmatch(r"sm_[1-9]\d{1,2}", wanted):
        raise UserError(f"--arch {wanted} is no GPU architecture; give one like sm_80, sm_89, sm_90, or native")
    if int(wanted.removeprefix("sm_")) < 80:
        raise UserError(f"--arch {wanted} is too old: the kernels need sm_80 (Ampere) or newer")
    return wanted
