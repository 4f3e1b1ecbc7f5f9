"""Kernels of the format semi_structured are compiled: registers, spills, waits; cubins are kept and shipped."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from sparse24_cases import REAL

from compile.cuda.formats import semi_structured
from runtime.cuda import nvrtc
from runtime.cuda import semi_structured_sm80 as ampere
from runtime.cuda import semi_structured_sm90 as hopper
from runtime.cuda.semi_structured_sm80 import LAUNCHES, Launch80
from runtime.cuda.semi_structured_sm90 import Launch
from runtime.errors import UserError

BUILDS = [("sm_80", launch, torch.float16) for launch in LAUNCHES]
BUILDS += [("sm_89", LAUNCHES[0], torch.bfloat16), ("sm_120", LAUNCHES[1], torch.float16)]
HOPPER_BUILDS = sorted({Launch(*c.launch) for problem in REAL.values() for c in semi_structured.configs(problem)[:2]})
SHARED_BUILD = Launch(1, 2, 192, 0, 6, share=2)


def macros(launch: Launch80 | Launch, dtype: torch.dtype) -> tuple[str, dict[str, str], dict[str, int]]:
    """File, headers and defines of a kernel."""
    if isinstance(launch, Launch80):
        return "semi_structured_sm80.cu", {}, ampere.defines(launch, dtype)
    return "semi_structured_sm90.cu", hopper.headers(launch.pixels, dtype), hopper.defines(launch, dtype)


def serialized(log: str) -> list[str]:
    """What ptxas says (C7510 and its like) where it waits after each wgmma."""
    return [line for line in log.splitlines() if "serialized" in line or "C7510" in line]


def spilled(log: str) -> int:
    found = re.findall(r"(\d+) bytes spill (?:stores|loads)", log)
    assert found, f"the log says nothing of spills: {log}"
    return sum(map(int, found))


BUILDS += [("sm_90a", launch, torch.float16) for launch in (*HOPPER_BUILDS, SHARED_BUILD)]
BUILDS += [("sm_90a", Launch(1, 2, 224, 5, 3), torch.bfloat16)]


@pytest.mark.parametrize(("arch", "launch", "dtype"), BUILDS)
def test_nvrtc_builds_kernels_that_keep_to_their_registers(arch: str, launch: Launch80 | Launch, dtype: torch.dtype):
    name, headers, defines = macros(launch, dtype)
    try:
        cubin, log = nvrtc.build(nvrtc.source(name), arch, headers, defines, ["--ptxas-options=-v"])
    except UserError as error:
        if "there is no NVRTC" in str(error):
            pytest.skip(str(error))
        raise
    kernel = hopper.KERNEL if isinstance(launch, Launch) else ampere.KERNEL
    assert cubin[:4] == b"\x7fELF"
    assert kernel.encode() + b"\0" in cubin
    assert spilled(log) == 0, log
    assert serialized(log) == []


def test_a_serialized_wgmma_is_seen_in_the_log():
    """Sums that are read while an instruction may still write them."""
    name, headers, defines = macros(SHARED_BUILD, torch.float16)
    text = nvrtc.source(name)
    last = "release(at, 0, empty_b);\n  advance(p, at);"
    assert text.count(last) == 1
    text = text.replace(last, f"acc[0][0] += 1.f;\n  {last}")
    try:
        _, log = nvrtc.build(text, "sm_90a", headers, defines, ["--ptxas-options=-v"])
    except UserError as error:
        if "there is no NVRTC" in str(error):
            pytest.skip(str(error))
        raise
    assert serialized(log)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc, there is none")
@pytest.mark.parametrize(("arch", "launch"), [("80", LAUNCHES[0]), ("89", LAUNCHES[1]), ("90a", HOPPER_BUILDS[0])])
def test_nvcc_builds_them_too(arch: str, launch: Launch80 | Launch, tmp_path: Path):
    name, headers, defines = macros(launch, torch.float16)
    for header, text in (headers | {"kernel.cu": nvrtc.source(name)}).items():
        (tmp_path / header).write_text(text)
    target = f"-gencode=arch=compute_{arch},code=sm_{arch}"
    flags = ["-std=c++17", target, "-cubin", *(f"-D{key}={value}" for key, value in defines.items())]
    done = subprocess.run(
        ["nvcc", *flags, "-Xptxas", "-v", "-o", tmp_path / "k.cubin", tmp_path / "kernel.cu"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert spilled(done.stderr) == 0, done.stderr


def test_cubins_are_kept_and_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ST3_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(nvrtc, "_shipped", [])
    text = 'extern "C" __global__ void k(int* p) { *p = SEVEN; }'
    try:
        made = nvrtc.cubin(text, "sm_80", {}, {"SEVEN": 7})
    except UserError as error:
        pytest.skip(str(error))
    kept = list((tmp_path / "cache").rglob("*.cubin"))
    assert [path.read_bytes() for path in kept] == [made]
    monkeypatch.setattr(nvrtc, "_compile", None)  # nothing may be compiled from here on
    assert nvrtc.cubin(text, "sm_80", {}, {"SEVEN": 7}) == made
    monkeypatch.setattr(nvrtc, "_function", lambda *_: 1)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    with nvrtc.recorded() as found:
        nvrtc.function(made, "k", 0)
    nvrtc.ship(found, tmp_path / "artifact")
    kept[0].unlink()
    nvrtc.add_shipped(tmp_path / "artifact")
    assert nvrtc.cubin(text, "sm_80", {}, {"SEVEN": 7}) == made
    with pytest.raises(TypeError):  # the wrong define is another kernel
        nvrtc.cubin(text, "sm_80", {}, {"SEVEN": 8})
