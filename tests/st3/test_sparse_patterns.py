from __future__ import annotations

import pytest
import torch

from st3.patterns import Pattern, group_limit, limits_shape, obeys, parse_pattern, reject, score, spread


def groups(kept: int, size: int) -> Pattern:
    return Pattern("N:M", kept, size)


def limits(weight: torch.Tensor, pattern: Pattern) -> torch.Tensor:
    found = group_limit(weight, pattern)
    assert found.shape == limits_shape(tuple(weight.shape), pattern)
    return spread(found, tuple(weight.shape), pattern)


def test_parse() -> None:
    assert parse_pattern("unstructured") == Pattern("unstructured")
    assert parse_pattern("2:4") == groups(2, 4)
    assert parse_pattern("1x4") == Pattern("1xN", 0, 4)
    assert parse_pattern("channel").grouped
    assert groups(1, 8).sparsity == 0.875
    assert parse_pattern("1x4").sparsity is None


def test_group_threshold_of_2_to_4_by_hand() -> None:
    weight = torch.tensor([[4.0, -1.0, 3.0, -2.0, 5.0, 5.0, 5.0, 5.0]])
    assert limits(weight, groups(2, 4)).tolist() == [[2.0] * 4 + [5.0] * 4]


def test_groups_run_along_the_input_channels() -> None:
    weight = torch.randn(3, 8, 2, 2, generator=torch.Generator().manual_seed(1))
    threshold = limits(weight, groups(2, 4))
    for n, c, r, s in [(0, 0, 0, 0), (2, 4, 1, 0), (1, 4, 0, 1)]:
        group = weight[n, c : c + 4, r, s].abs()
        assert threshold[n, c : c + 4, r, s].tolist() == [group.sort().values[1].item()] * 4


@pytest.mark.parametrize("pattern", [groups(2, 4), groups(1, 4), groups(3, 8), groups(1, 2), groups(15, 16)])
def test_at_most_n_lie_above_even_with_ties(pattern: Pattern) -> None:
    weight = torch.randint(-2, 3, (16, 16, 3, 3), generator=torch.Generator().manual_seed(2)).float()
    kept = torch.where(weight.abs() > limits(weight, pattern), weight, 0.0)
    assert obeys(kept, pattern)
    assert not obeys(weight, pattern)


def test_rejects_what_cannot_be_grouped() -> None:
    assert reject((16, 3, 3, 3), groups(2, 4)) == "3 input channels cannot be divided into groups of 4"
    assert reject((16, 8, 3, 3), groups(2, 4)) == ""
    assert reject((16, 3, 3, 3), Pattern("unstructured")) == ""


@pytest.mark.parametrize(("kept", "size"), [(2, 4), (1, 8), (5, 8), (7, 8), (3, 48)])
def test_the_limit_is_the_order_statistic(kept: int, size: int) -> None:
    weight = torch.randn(5, 48, 3, 2, generator=torch.Generator().manual_seed(5))
    found = limits(weight, groups(kept, size))
    expected = weight.abs().reshape(5, 48 // size, size, 3, 2).sort(dim=2).values[:, :, size - kept - 1]
    assert torch.equal(found, expected.repeat_interleave(size, 1))


def test_scores_of_blocks_by_hand_with_a_shorter_last_one() -> None:
    weight = torch.tensor([[1.0, -2.0], [3.0, 4.0], [-5.0, 7.0]])
    assert score(weight, parse_pattern("1x2")).tolist() == [[2, 3], [2, 3], [5, 7]]
    assert score(weight, parse_pattern("channel")).tolist() == [[1.5], [3.5], [6.0]]
    torch.testing.assert_close(score(weight, parse_pattern("1x8")), torch.tensor([[3, 13 / 3]] * 3))


def test_obeys_blocks_and_channels() -> None:
    blocks = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 7.0]])
    assert obeys(blocks, parse_pattern("1x2"))
    assert not obeys(blocks, parse_pattern("1x3"))
    assert not obeys(blocks, parse_pattern("channel"))
    assert obeys(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), parse_pattern("channel"))
