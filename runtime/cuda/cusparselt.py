"""``st3::cusparselt_linear``: a 1x1 convolution with 2:4 weights through cuSPARSELt, bias in the product.

In channels-last memory a 1x1 convolution is one matrix product, ``(B H W, C)`` times ``(N, C)`` transposed. cuSPARSELt
wants its sparse operand first, so it computes ``weight x rows transposed`` and writes the result transposed, which is
channels last again: no copy on either side. ReLU and residual are a pass of their own: torch's binding has neither.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from runtime.errors import UserError


def compress(weight: Tensor) -> Tensor:
    """The form of a dense 2:4 ``(N, C)`` on a GPU that its cuSPARSELt multiplies with; of use on such a GPU only."""
    return torch._cslt_compress(weight.contiguous())


def search(weight: Tensor, rows: Tensor, bias: Tensor) -> tuple[int, int, int, int]:
    """Let cuSPARSELt time its algorithms on the GPU: the fastest ``alg_id, split_k, split_k_mode``, and how many ids.

    Args:
        weight: compressed.
        rows: ``(B H W, C)``.
        bias: ``(N,)`` in the dtype of the others.
    """
    # torch has it where it was built with cuSPARSELt; its stubs do not
    mm_search: Callable[..., tuple[int, ...]] = torch._C._cusparselt.mm_search  # type: ignore[attr-defined]
    found = mm_search(weight, rows.t(), bias, None, None, True)
    algorithm, split, mode, most = (int(value) for value in found)
    return algorithm, split, mode, most


@torch.library.custom_op("st3::cusparselt_linear", mutates_args=())
def cusparselt_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    relu: bool,
    algorithm: int,
    split: int,
    mode: int,
) -> Tensor:
    """``activation(conv(x) + bias + residual)``, channels last.

    Args:
        x: ``(B, C, H, W)`` channels last, float16 or bfloat16.
        weight: compressed on this GPU; see ``compress``.
        bias: ``(N,)`` in the dtype of ``x``.
        residual: like the result, or ``None``.
        relu: whether negative results become zero.
        algorithm: cuSPARSELt's ``alg_id`` for this shape.
        split: into how many parts the sum is cut.
        mode: how these are added up; -1 where there is one.
    """
    if not x.is_cuda:
        raise UserError(f"st3::cusparselt_linear runs on an NVIDIA GPU, but its input is on {x.device}; move it")
    batch, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(-1, channels)
    y = torch._cslt_sparse_mm(
        weight,
        rows.t(),
        bias if residual is None else None,
        transpose_result=True,
        alg_id=algorithm,
        split_k=split,
        split_k_mode=mode,
    )
    image = y.view(batch, height, width, -1).permute(0, 3, 1, 2)
    if residual is not None:
        from runtime.cuda.epilogue import add_in_place

        add_in_place(image, bias, residual.contiguous(memory_format=torch.channels_last), relu)
    elif relu:
        image.relu_()
    return image


@cusparselt_linear.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    relu: bool,
    algorithm: int,
    split: int,
    mode: int,
) -> Tensor:
    del weight, residual, relu, algorithm, split, mode
    batch, _, height, width = x.shape
    return x.new_empty((batch, height, width, bias.shape[0])).permute(0, 3, 1, 2)
