"""What holds for all tests."""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

# tensors are small: more than one thread would only wait for the others; torch reads it when it is first imported,
# here and in the processes that tests start
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import HealthCheck, settings

from compile.native import builder, toolchain
from compile.native.isa import Isa

# a busy machine is no failure, and what fails once fails again
settings.register_profile("st3", deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
settings.load_profile("st3")


def pytest_collection_finish() -> None:
    """What was imported stays: a collection of garbage need not look through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps the tuner's measurements of this machine, which a busy test run would spoil, out of the tests' reach."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def quick_compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests check numbers, not speed: g++ optimises less, and makes each object once for all tests.

    The objects lie in a folder that the processes of pytest-xdist share and that goes with pytest's others.
    """
    base = tmp_path_factory.getbasetemp()
    objects = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "objects"
    objects.mkdir(exist_ok=True)
    compile_anew = builder.build_object

    def build_object(source: Path, result: Path, isa: Isa) -> None:
        key = repr((toolchain.compiler(isa.machine), toolchain._FLAGS, isa.compiler_flags, source.name))
        known = objects / hashlib.sha256(key.encode() + source.read_bytes()).hexdigest()
        if not known.exists():
            compile_anew(source, result, isa)
            part = known.with_suffix(f".{os.getpid()}")
            shutil.copyfile(result, part)
            part.replace(known)
        shutil.copyfile(known, result)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toolchain, "_FLAGS", tuple("-O1" if flag == "-O3" else flag for flag in toolchain._FLAGS))
        patch.setattr(builder, "build_object", build_object)
        yield
