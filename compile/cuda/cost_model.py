"""How long a kernel should take on a GPU: a roofline, used where nothing can be measured."""

from __future__ import annotations

import msgspec

from compile.cuda.format import DENSE
from compile.cuda.problem import ConvProblem


class Rates(msgspec.Struct, frozen=True):
    """What a GPU reaches.

    Attributes:
        bytes_per_us: of its memory.
        tensor_macs_per_us: dense 16-bit multiply-adds of its tensor cores, at what cuDNN reaches of them.
        scalar_macs_per_us: float32 multiply-adds of its other cores.
        launch_us: between two small kernels of a CUDA graph.
    """

    bytes_per_us: float
    tensor_macs_per_us: float
    scalar_macs_per_us: float
    launch_us: float


# sm_90: an H100's 3.0 TB/s; 800 TFLOP/s dense 16-bit, of which cuDNN's 3x3 convolutions reach 70 % (400 to 450 TFLOP/s
# at batch 32, 550 to 640 at 128; LOG.md, 2026-11-26); 60 TFLOP/s float32 of 67 by data sheet, 70 % of them. The others
# are their data sheets', taken alike.
RATES: dict[str, Rates] = {
    "sm_80": Rates(1.5e6, 312e6 / 2 * 0.7, 19.5e6 / 2 * 0.7, 1.5),
    "sm_86": Rates(0.9e6, 140e6 / 2 * 0.7, 36e6 / 2 * 0.7, 1.5),
    "sm_89": Rates(0.95e6, 330e6 / 2 * 0.7, 80e6 / 2 * 0.7, 1.5),
    "sm_90": Rates(3.0e6, 800e6 / 2 * 0.7, 60e6 / 2 * 0.7, 1.5),
}
FALLBACK = RATES["sm_80"]

# how many of the multiply-adds that a format executes it makes in the time of one dense one. Measured (LOG.md,
# 2026-11-26): 2:4 at batch 128 is 1.14 to 1.49 times as fast as dense with half of the multiply-adds; csr makes 2.8 to
# 3.8 million float32 multiply-adds a microsecond of the 21 above. The rest are guesses on the side of dense.
EFFICIENCY: dict[str, float] = {
    DENSE: 1.0,
    "semi_structured": 0.7,
    "cusparselt": 0.55,
    "column_union": 0.3,
    "csr": 0.15,
}
_OTHER = 0.5
_SCALAR = ("csr",)  # formats that leave the tensor cores idle whatever the dtype


def layer_us(name: str, problem: ConvProblem, macs_usable: int, arch: str) -> float:
    """Microseconds of one layer: the longer of its arithmetic and its memory traffic, and the start of a kernel."""
    rates = RATES.get(arch, FALLBACK)
    scalar = problem.dtype == "float32" or name in _SCALAR
    rate = (rates.scalar_macs_per_us if scalar else rates.tensor_macs_per_us) * EFFICIENCY.get(name, _OTHER)
    return max(macs_usable / rate, traffic(problem, macs_usable) / rates.bytes_per_us) + rates.launch_us


def traffic(problem: ConvProblem, macs_usable: int) -> int:
    """Bytes that must move once: input, weights as executed, output, residual."""
    outputs = problem.rows * problem.outputs
    inputs = problem.batch * problem.channels * problem.height * problem.width
    weights = macs_usable // max(problem.rows, 1)
    return problem.element_bytes * (inputs + weights + outputs * (2 if problem.residual else 1))
