"""Generated networks under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer.

A few here in ``make test``, all in ``make test-native``. Under AddressSanitizer tensors lie apart with forbidden memory
between them, so that a step which leaves its tensor is caught though the arena is one block.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from families import NETWORKS
from hypothesis import given, settings
from hypothesis import strategies as st
from native_case import Case, build_driver, run_driver, why_not, write_case
from networks import EVERY, EveryOperator, convolutions, digits, small_network, title
from several_outputs import Pyramid
from support import prune_randomly
from torch import nn
from torchvision import models

from compile.format import format_names
from compile.native.isa import Isa

ADDRESS = ("-O0", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# each of three weakened memory orders in team.h was found with 100 runs; with 3 the one that was tried was not
THREAD = ("-O1", "-g", "-fsanitize=thread", "-DRUNS=100")
# two tasks of a step that write to one place do so in every run
THREAD_SHORT = (*THREAD[:-1], "-DRUNS=20")
THREADS = (1, 2, 3, 7)


@pytest.fixture(autouse=True, scope="module")
def _sanitizers(tmp_path_factory: pytest.TempPathFactory) -> None:
    for flags in (ADDRESS, THREAD):
        reason = why_not(flags, tmp_path_factory.mktemp("empty"))
        if reason:
            pytest.skip(reason)


def check(case: Case, flags: tuple[str, ...]) -> Case:
    assert run_driver(case, build_driver(case, flags), THREADS) < digits(case.isa)
    return case


def tiny_network() -> nn.Module:
    """Quick to compile: a dense, a sparse and a linear layer."""
    torch.manual_seed(0)
    sparse = prune_randomly(nn.Conv2d(5, 9, 3, stride=2, padding=1), 0.3)
    first = nn.Conv2d(2, 5, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), sparse, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 4))


def test_addresses_and_behaviour_and_that_a_wrong_address_is_seen(tmp_path: Path) -> None:
    case = write_case(tmp_path, tiny_network(), (2, 11, 9), 1, apart=True)
    program = build_driver(case, ADDRESS)
    assert run_driver(case, program, THREADS) < 1e-5
    # the first bytes behind the first gap belong to the first tensor
    gaps = np.fromfile(case.folder / "gaps.bin", "<i8").reshape(-1, 2)
    gaps[0, 1] += 64
    gaps.tofile(case.folder / "gaps.bin")
    with pytest.raises(AssertionError, match="AddressSanitizer: use-after-poison"):
        run_driver(case, program, (1,))


def test_threads(tmp_path: Path) -> None:
    check(write_case(tmp_path, tiny_network(), (2, 11, 9), 1), THREAD)


@pytest.mark.exhaustive
@pytest.mark.parametrize("flags", [ADDRESS, THREAD])
def test_several_outputs(tmp_path: Path, flags: tuple[str, ...]) -> None:
    check(write_case(tmp_path, prune_randomly(Pyramid(), 0.4), (2, 11, 9), 3, apart=flags is ADDRESS), flags)


@pytest.mark.exhaustive
@pytest.mark.parametrize("isa", EVERY, ids=title)
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_every_instruction_set(tmp_path: Path, isa: Isa, batch_size: int) -> None:
    module = prune_randomly(small_network(), 0.1)
    # threads that take turns on few processors make long work of many runs of a large batch
    thread = (*THREAD[:-1], f"-DRUNS={100 // batch_size}")
    for name, flags in (("address", ADDRESS), ("thread", thread)):
        check(write_case(tmp_path / name, module, (3, 29, 23), batch_size, isa, apart=name == "address"), flags)


@pytest.mark.exhaustive
@pytest.mark.parametrize("isa", EVERY, ids=title)
@pytest.mark.parametrize(
    ("batch_size", "flags"), [(1, ADDRESS), (3, ADDRESS), (16, ADDRESS), (1, THREAD_SHORT), (3, THREAD_SHORT)]
)
def test_every_operator(tmp_path: Path, isa: Isa, batch_size: int, flags: tuple[str, ...]) -> None:
    module = prune_randomly(EveryOperator(), 0.3)
    case = check(write_case(tmp_path, module, (3, 13, 11), batch_size, isa, apart=flags is ADDRESS), flags)
    kernels = {step.kernel for step in case.steps}
    assert kernels >= {"max_pool", "average_pool", "adaptive_pool", "mean", "resize", "layer_norm", "elementwise"}
    assert kernels >= {"relayout", "result", "offset_stream"}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["shufflenet_v2", "densenet", "segmenter", "convnext", "mobilenet_v3_small"])
def test_a_small_network_of_a_family(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    build, side = NETWORKS[name]
    module = prune_randomly(build(), 0.2)
    check(write_case(tmp_path, module, (3, side, side), 1, apart=True), ADDRESS)


@pytest.mark.exhaustive
@pytest.mark.parametrize("isa", EVERY, ids=title)
@pytest.mark.parametrize(("batch_size", "flags"), [(1, ADDRESS), (3, ADDRESS), (16, ADDRESS), (1, THREAD_SHORT)])
@pytest.mark.parametrize("name", ["tokens", "windows"])
def test_attention(tmp_path: Path, name: str, isa: Isa, batch_size: int, flags: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    if name == "tokens":
        module: nn.Module = models.VisionTransformer(20, 4, 1, 2, 12, 16, num_classes=5)
        nn.init.normal_(module.get_parameter("heads.head.weight"))
    else:  # 5x5 maps of windows 2x2: padded, and in the second block rolled
        module = models.SwinTransformer([4, 4], 12, [2], [2], [2, 2], num_classes=5)
    case = check(
        write_case(tmp_path, prune_randomly(module, 0.4), (3, 20, 20), batch_size, isa, apart=flags is ADDRESS), flags
    )
    assert {step.kernel for step in case.steps} >= {"attention", "move", "layer_norm"}


@pytest.mark.exhaustive
def test_tensors_that_share_memory(tmp_path: Path) -> None:
    check(write_case(tmp_path, prune_randomly(small_network(), 0.3), (3, 29, 23), 3), ADDRESS)


@pytest.mark.exhaustive
@pytest.mark.parametrize("batch_size", [1, 16])
def test_every_format(tmp_path: Path, batch_size: int) -> None:
    torch.manual_seed(0)
    dense, sparse = nn.Conv2d(3, 21, 3, padding=1), prune_randomly(nn.Conv2d(21, 18, 3, padding=1), 0.2)
    blocks = prune_randomly(nn.Conv2d(18, 10, 1), 0.3, block=4)  # the last block is not full
    grouped = prune_randomly(nn.Conv2d(18, 18, 1, groups=2), 0.2)  # only offset_stream takes it
    # the denser a layer, the more taps a pair of channels has in common
    paired = prune_randomly(nn.Conv2d(10, 65, 3), 0.6)
    last = nn.Conv2d(65, 7, 1)
    mixed = nn.Sequential(dense, nn.ReLU(), sparse, nn.ReLU(), grouped, blocks, paired, last, nn.AvgPool2d(2))
    kernels = set()
    # a network of dense weights alone has channels in the lanes where few pictures share a vector
    for size, module in ((batch_size, mixed), (1, prune_randomly(small_network(), 1.0))):
        case = check(write_case(tmp_path / str(len(kernels)), module, (3, 18, 14), size, apart=True), ADDRESS)
        kernels |= {step.kernel for step in case.steps}
    assert set(format_names()) <= kernels


@pytest.mark.exhaustive
@settings(max_examples=12)
@given(convolutions(), st.sampled_from(EVERY))
def test_any_convolution(case: tuple[nn.Module, tuple[int, int, int], int, float, int], isa: Isa) -> None:
    module, shape, batch_size, density, block = case
    prune_randomly(module, density, block=block)
    with tempfile.TemporaryDirectory() as folder:
        check(write_case(Path(folder), module, shape, batch_size, isa, apart=True), ADDRESS)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2"])
def test_a_network_of_torchvision(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    module = prune_randomly(getattr(torchvision.models, name)(num_classes=10), 0.1)
    check(write_case(tmp_path, module, (3, 64, 48), 1, apart=True), ADDRESS)
