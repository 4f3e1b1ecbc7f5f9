"""``python -m compile.cuda.cusparselt_probe N K ROWS DTYPE``: whether cuSPARSELt can do a product here, and how best.

Prints the ``alg_id``, ``split_k``, ``split_k_mode`` that its search found and the number of algorithms, as JSON.
"""

from __future__ import annotations

import sys

import msgspec
import torch
from torch import Tensor

from runtime.cuda.cusparselt import compress, cusparselt_linear, search

_SEED = 20221201


def main(outputs: int, channels: int, rows: int, dtype: torch.dtype) -> tuple[int, int, int, int]:
    """Search, then multiply once with what was found and look at the answer."""
    random = torch.Generator(device="cuda").manual_seed(_SEED)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, device="cuda").to(dtype)

    weight = normal(outputs, channels // 4, 4)
    weight[..., :2] = 0.0
    dense, x, bias = weight.flatten(1), normal(rows, channels), normal(outputs)
    compressed = compress(dense)
    found = search(compressed, x, bias)
    image = x.reshape(1, rows, 1, channels).permute(0, 3, 1, 2)
    answer = cusparselt_linear(image, compressed, bias, None, False, *found[:3])
    wanted = x.double() @ dense.double().t() + bias.double()
    error = (answer.permute(0, 2, 3, 1).reshape(rows, -1).double() - wanted).norm() / wanted.norm()
    if not error < 1e-2:
        raise SystemExit(f"RuntimeError: the product is off by {float(error):.1e}")
    return found


if __name__ == "__main__":
    n, k, m = (int(word) for word in sys.argv[1:4])
    sys.stdout.write(msgspec.json.encode(main(n, k, m, getattr(torch, sys.argv[4]))).decode() + "\n")
