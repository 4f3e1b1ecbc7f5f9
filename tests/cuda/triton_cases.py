"""Run by ``test_column_union.py`` with TRITON_INTERPRET=1, which Triton reads on import: the kernel against float64."""

from __future__ import annotations

import sys

import msgspec
import triton
from unstructured_cases import check, make_case, poisoned, ragged

from compile.cuda.formats import column_union
from compile.cuda.formats.column_union import ColumnUnionConfig
from compile.cuda.problem import ConvProblem
from runtime.cuda.column_union import column_union_kernel, run

CUTS = (  # tile, group, block, grain, warps, stages
    ColumnUnionConfig(32, 16, 16, 1, 1, 1),
    ColumnUnionConfig(16, 32, 32, 4, 1, 1),
    ColumnUnionConfig(64, 16, 16, 16, 1, 1),
)


def main() -> None:
    """Print a line per case; an assertion ends it. Each problem takes one cut, the next type the next one."""
    assert triton.knobs.runtime.interpret, "TRITON_INTERPRET=1 came too late"
    for turn, dtype in enumerate(("float16", "float32")):
        for at, (name, problem) in enumerate(small(dtype).items()):
            cut = CUTS[(at + turn) % len(CUTS)]
            run_case(name, problem, cut if problem.channels % cut.grain == 0 else CUTS[0], 0.1)
    for density in (0.0, 0.6):
        run_case("1x1", ragged("float16")["1x1"], CUTS[0], density)


def small(dtype: str) -> dict[str, ConvProblem]:
    """The ragged problems, the two largest cut down: the interpreter takes milliseconds for a step."""
    problems = ragged(dtype)
    for name, height, width in (("3x3, dilation 2", 6, 9), ("7x7, three channels", 7, 9), ("1x3, wide", 3, 20)):
        problems[name] = msgspec.structs.replace(problems[name], batch=1, height=height, width=width)
    return problems


def run_case(name: str, problem: ConvProblem, cut: ColumnUnionConfig, density: float) -> None:
    """One answer of the kernel."""
    case = make_case(problem, density)
    module = column_union.module(column_union.pack(case.weight), case.bias, problem, cut)
    y = poisoned(problem)
    run(column_union_kernel, module.tensors(case.x, case.residual), case.x.shape, y, module.cut)
    check(y, case)
    sys.stdout.write(f"{problem.dtype} {name} grain {cut.grain} density {density}\n")


if __name__ == "__main__":
    main()
