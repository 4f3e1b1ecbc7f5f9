"""Run by ``test_column_union.py`` with TRITON_INTERPRET=1, which Triton reads when it is imported: kernel against float64."""

from __future__ import annotations

import sys

import triton
from unstructured_cases import check, make_case, poisoned, ragged

from compile.cuda.formats import column_union
from compile.cuda.formats.column_union import ColumnUnionConfig
from runtime.cuda.column_union import column_union_kernel, run

CUTS = (  # tile, group, block, grain, warps, stages
    ColumnUnionConfig(32, 16, 16, 1, 1, 1),
    ColumnUnionConfig(16, 32, 32, 4, 1, 1),
    ColumnUnionConfig(64, 16, 16, 16, 1, 1),
)


def main() -> None:
    """Print a line per case; an assertion ends it."""
    assert triton.knobs.runtime.interpret, "TRITON_INTERPRET=1 came too late"
    for dtype in ("float16", "float32"):
        for name, problem in ragged(dtype).items():
            for cut in CUTS:
                if problem.channels % cut.grain:
                    continue
                for density in (0.0, 0.03, 0.4):
                    case = make_case(problem, density)
                    module = column_union.module(column_union.pack(case.weight), case.bias, problem, cut)
                    y = poisoned(problem)
                    run(column_union_kernel, module.tensors(case.x, case.residual), case.x.shape, y, module.cut)
                    check(y, case)
                    sys.stdout.write(f"{dtype} {name} grain {cut.grain} density {density}\n")


if __name__ == "__main__":
    main()
