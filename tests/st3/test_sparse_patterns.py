from __future__ import annotations

import pytest
import torch

from st3.patterns import Groups, group_threshold, obeys, parse_pattern, reject


def test_parse() -> None:
    assert parse_pattern("unstructured") is None
    assert parse_pattern("2:4") == Groups(2, 4)
    assert Groups(1, 8).sparsity == 0.875


def test_group_threshold_of_2_to_4_by_hand() -> None:
    weight = torch.tensor([[4.0, -1.0, 3.0, -2.0, 5.0, 5.0, 5.0, 5.0]])
    assert group_threshold(weight, Groups(2, 4)).tolist() == [[2.0] * 4 + [5.0] * 4]


def test_groups_run_along_the_input_channels() -> None:
    weight = torch.randn(3, 8, 2, 2, generator=torch.Generator().manual_seed(1))
    threshold = group_threshold(weight, Groups(2, 4))
    for n, c, r, s in [(0, 0, 0, 0), (2, 4, 1, 0), (1, 4, 0, 1)]:
        group = weight[n, c : c + 4, r, s].abs()
        assert threshold[n, c : c + 4, r, s].tolist() == [group.sort().values[1].item()] * 4


@pytest.mark.parametrize("groups", [Groups(2, 4), Groups(1, 4), Groups(3, 8), Groups(1, 2)])
def test_at_most_n_lie_above_even_with_ties(groups: Groups) -> None:
    weight = torch.randint(-2, 3, (16, 16, 3, 3), generator=torch.Generator().manual_seed(2)).float()
    kept = torch.where(weight.abs() > group_threshold(weight, groups), weight, 0.0)
    assert obeys(kept, groups)
    assert not obeys(weight, groups)


def test_rejects_what_cannot_be_grouped() -> None:
    assert reject((16, 3, 3, 3), Groups(2, 4)) == "3 input channels cannot be divided into groups of 4"
    assert reject((16, 8, 3, 3), Groups(2, 4)) == ""
    assert reject((16, 3, 3, 3), None) == ""
