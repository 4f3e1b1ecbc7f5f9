from __future__ import annotations

import msgspec
import pytest

from runtime.errors import UserError
from st3.plan import SparsityPlan


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a sparsity"),
        ({"sparsity": 1.0}, r"fraction of zeros in \[0, 1\), got 1.0"),
        ({"sparsity": 90}, "90 % is 0.9"),
        ({"sparsity": -0.1}, "got -0.1"),
        ({"sparsity": float("nan")}, "got nan"),
        ({"sparsity": 0.9, "pattern": "2:4"}, "pattern 2:4 has sparsity 0.5, got 0.9"),
        ({"pattern": "4:2"}, "unknown pattern '4:2'"),
        ({"pattern": "blocks"}, "choose unstructured, N:M"),
        ({"sparsity": 0.5, "scope": "layer"}, "choose one of global, uniform, erk"),
        ({"sparsity": 0.5, "scope": {"fc": 1.0}}, r"of 'fc' must lie in \[0, 1\), got 1.0"),
        ({"pattern": "2:4", "scope": "uniform"}, "scope uniform means nothing"),
        ({"pattern": "1x4"}, "pattern 1x4 needs a sparsity"),
        ({"sparsity": 0.5, "pattern": "4x1"}, "unknown pattern '4x1'"),
        ({"sparsity": 0.5, "pattern": "1x1"}, "unknown pattern '1x1'"),
        ({"sparsity": 0.5, "begin": 0.6, "end": 0.5}, "begin 0.6, end 0.5"),
        ({"sparsity": 0.5, "end": 1.5}, "end 1.5"),
    ],
)
def test_refuses(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SparsityPlan(**options)


def test_target_follows_from_the_pattern() -> None:
    assert SparsityPlan(pattern="2:4").target == 0.5
    assert SparsityPlan(pattern="1:4", sparsity=0.75).target == 0.75
    assert SparsityPlan(sparsity=0.9).target == 0.9


def test_exempts_by_wildcard() -> None:
    plan = SparsityPlan(sparsity=0.9, exempt=("stem", "stage?.*.conv1"))
    assert [plan.exempts(name) for name in ("stem", "stem.0", "stage2.0.conv1", "fc")] == [True, False, True, False]


def test_json_round_trip() -> None:
    for plan in (
        SparsityPlan(pattern="2:4", begin=0.1, exempt=("fc",)),
        SparsityPlan(sparsity=0.9, pattern="1x4", scope="erk"),
        SparsityPlan(sparsity=0.9, scope={"fc": 0.5, "layer?.*": 0.95}),
    ):
        assert msgspec.json.decode(msgspec.json.encode(plan), type=SparsityPlan) == plan


def test_reads_the_plans_of_older_checkpoints() -> None:
    old = b'{"sparsity":0.9,"pattern":"unstructured","scope":"global","begin":0.0,"end":0.5,"exempt":[]}'
    assert msgspec.json.decode(old, type=SparsityPlan) == SparsityPlan(sparsity=0.9)
