"""Networks for aarch64: compiled here, run under qemu-user against torch, and refused by a runtime elsewhere."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from native_case import build_driver, run_driver, write_case
from networks import small_network
from support import prune_randomly, write_checkpoint
from torch import nn

from compile.native.isa import ISAS, cache_bytes, isa_for
from compile.native.toolchain import compiler
from runtime.artifact import open_artifact
from runtime.engine import load
from runtime.errors import ArtifactError, UserError
from st3.cli import main

CROSS = "aarch64-linux-gnu-g++"
NATIVE = platform.machine() == "aarch64"
needs_compiler = pytest.mark.skipif(
    not NATIVE and shutil.which(CROSS) is None, reason=f"no {CROSS} (Debian, Ubuntu: apt install g++-aarch64-linux-gnu)"
)
needs_emulator = pytest.mark.skipif(
    not NATIVE and shutil.which("qemu-aarch64") is None,
    reason="no qemu-aarch64 (Debian, Ubuntu: apt install qemu-user)",
)


def tiny_network() -> nn.Module:
    torch.manual_seed(0)
    sparse = prune_randomly(nn.Conv2d(5, 9, 3, stride=2, padding=1), 0.3)
    return nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), sparse, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def emulated(
    folder: Path, module: nn.Module, shape: tuple[int, int, int], batch_size: int, dtype: str = "float32"
) -> float:
    case = write_case(folder, module, shape, batch_size, isa_for("aarch64", dtype))
    program = build_driver(case, ("-static", "-O1"))
    return run_driver(case, program, (1, 3), [] if NATIVE else ["qemu-aarch64"])


@needs_compiler
@needs_emulator
def test_a_network_answers_like_torch(tmp_path: Path) -> None:
    assert emulated(tmp_path, tiny_network(), (2, 11, 9), 5) < 1e-5


@needs_compiler
@needs_emulator
def test_half_precision_is_within_its_digits(tmp_path: Path) -> None:
    assert 1e-5 < emulated(tmp_path, tiny_network(), (2, 11, 9), 5, "float16") < 5e-3


@pytest.mark.exhaustive
@needs_compiler
@needs_emulator
@pytest.mark.parametrize("batch_size", [1, 3, 16])
@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-5), ("float16", 1e-2)])
def test_a_larger_network_answers_like_torch(tmp_path: Path, batch_size: int, dtype: str, most: float) -> None:
    assert emulated(tmp_path, prune_randomly(small_network(), 0.3), (3, 29, 23), batch_size, dtype) < most


@needs_compiler
def test_the_command_cross_compiles_and_this_machine_refuses_the_result(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "sparse", "st3", 0.9)
    arguments = ["compile", str(checkpoint), "--out", str(tmp_path / "out"), "--backend", "native"]
    result = CliRunner().invoke(main, [*arguments, "--isa", "aarch64", "--json"])
    assert result.exit_code == 0, result.output
    folder = tmp_path / "out/sparse/native-aarch64-b1"
    manifest = open_artifact(folder).manifest
    assert manifest.target.architecture == "aarch64"
    assert manifest.requirements.machine == "aarch64"
    assert manifest.requirements.cpu_flags == ("asimd",)
    if not NATIVE:
        with pytest.raises(ArtifactError, match=f"needs aarch64, this machine is {platform.machine()}; compile it"):
            load(folder)


def instructions(library: Path, objdump: str) -> str:
    done = subprocess.run([objdump, "-d", str(library)], capture_output=True, text=True, check=True)
    return done.stdout


@needs_compiler
@pytest.mark.parametrize(
    ("isa", "dtype", "pattern"),
    [
        # a multiply and add of four floats, as one instruction, which the baseline of x86-64 has not
        ("aarch64", "float32", r"\tfmla\tv\d+\.4s, v\d+\.4s, v\d+\."),
        ("aarch64", "float16", r"\tfmla\tv\d+\.8h, v\d+\.8h, v\d+\."),
        ("portable", "float32", r"\tmulps +"),
        ("avx2", "float32", r"\tvfmadd\d+ps .*%ymm"),
        ("avx512", "float32", r"\tvfmadd\d+ps .*%zmm"),
        ("avx512", "float16", r"\tvfmadd\d+ph .*%zmm"),
    ],
)
def test_the_compiler_keeps_to_vectors(tmp_path: Path, isa: str, dtype: str, pattern: str) -> None:
    if platform.machine() != "x86_64" or shutil.which("objdump") is None:
        pytest.skip("looks at x86-64's own objdump")
    case = write_case(tmp_path, tiny_network(), (2, 11, 9), 1, isa_for(isa, dtype))
    program = build_driver(case, ("-O2", "-c"))
    listing = instructions(program, "aarch64-linux-gnu-objdump" if isa == "aarch64" else "objdump")
    vectors = len(re.findall(pattern, listing))
    scalars = len(re.findall(r"\t(fmadd\t[sh]|v?mulss |vfmadd\d+s[sh] )", listing))
    assert vectors > 20
    assert scalars < 0.1 * vectors  # a mean's last sum and the like


def test_a_missing_cross_compiler_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "clang++")  # for this machine, and so of no use for another
    foreign = next(isa for isa in ISAS.values() if isa.foreign)
    package = f"g++-{foreign.machine.replace('_', '-')}-linux-gnu"
    with pytest.raises(UserError, match=rf"C\+\+ compiler for {foreign.machine}.*apt install {re.escape(package)}"):
        compiler(foreign.machine)


def test_a_foreign_machine_has_common_caches_and_its_own_registers() -> None:
    isa = isa_for("aarch64")
    assert (isa.lanes, isa.registers) == (4, 32)
    if not NATIVE:
        assert isa.foreign
        assert not isa.runnable
        assert [cache_bytes(level, isa) for level in (1, 2)] == [32 * 1024, 512 * 1024]
