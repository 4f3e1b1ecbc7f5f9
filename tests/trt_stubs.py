"""A module that stands for TensorRT's Python API, as far as st3 calls it, for machines that have none."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest


class Severity(SimpleNamespace):
    pass


INFO, ERROR, VERBOSE = (Severity(name=name) for name in ("INFO", "ERROR", "VERBOSE"))


class Flag:
    """Members by name, as pybind11's enumerations have them."""

    def __init__(self, **members: int) -> None:
        self.__dict__.update(members)
        self.__members__ = members


class ILogger:
    def __init__(self) -> None:
        pass


class Config:
    def __init__(self, state: SimpleNamespace) -> None:
        self.state = state
        self.profiling_verbosity = None
        self.num_compute_capabilities = 0

    def set_flag(self, flag: int) -> None:
        self.state.flags.append(flag)

    def set_compute_capability(self, capability: int, index: int) -> None:
        self.state.capability = (capability, index)

    def create_timing_cache(self, known: bytes) -> SimpleNamespace | None:
        self.state.caches.append(known)
        return None if known == b"damaged" else SimpleNamespace(serialize=lambda: known + b"+measured")

    def set_timing_cache(self, cache: SimpleNamespace, ignore_mismatch: bool) -> bool:
        self.state.cache = cache
        return True

    def get_timing_cache(self) -> SimpleNamespace:
        return self.state.cache


def stub(version: str = "10.15.1.29", **state: object) -> ModuleType:
    """``state`` says what happens: ``parses``, ``plan``, ``says`` (severity, text), ``inspection``."""
    known = SimpleNamespace(parses=True, plan=b"plan", says=[], inspection="", flags=[], caches=[], errors=[])
    known.__dict__.update(state)
    trt = ModuleType("tensorrt")
    trt.__version__ = version
    trt.__spec__ = ModuleSpec("tensorrt", None, origin="stub")
    trt.state = known

    class Builder:
        def __init__(self, logger: ILogger) -> None:
            self.logger = logger

        def create_network(self, flags: int) -> SimpleNamespace:
            known.network_flags = flags
            return SimpleNamespace()

        def create_builder_config(self) -> Config:
            return Config(known)

        def build_serialized_network(self, network: object, config: object) -> bytes | None:
            for severity, text in known.says:
                self.logger.log(severity, text)
            return known.plan

    class OnnxParser:
        def __init__(self, network: object, logger: ILogger) -> None:
            self.num_errors = len(known.errors)

        def parse(self, model: bytes) -> bool:
            return known.parses

        def get_error(self, index: int) -> SimpleNamespace:
            return SimpleNamespace(desc=lambda: known.errors[index])

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> object:
            for severity, text in known.says:
                self.logger.log(severity, text)
            return known.__dict__.get("engine") or _engine(known)

    trt.ILogger, trt.Builder, trt.OnnxParser, trt.Runtime = ILogger, Builder, OnnxParser, Runtime
    trt.BuilderFlag = Flag(SPARSE_WEIGHTS=6)
    trt.NetworkDefinitionCreationFlag = Flag(STRONGLY_TYPED=1)
    trt.ProfilingVerbosity = Flag(DETAILED=2)
    trt.LayerInformationFormat = Flag(JSON=1)
    trt.ComputeCapability = Flag(NONE=0, CURRENT=-1, SM75=75, SM89=89, SM120=120)
    return trt


def _engine(known: SimpleNamespace) -> SimpleNamespace | None:
    if not known.inspection:
        return None
    inspector = SimpleNamespace(get_engine_information=lambda kind: known.inspection)
    return SimpleNamespace(create_engine_inspector=lambda: inspector)


_NAMES = ("tensorrt", "tensorrt_bindings", "tensorrt_rtx", "tensorrt_rtx_bindings")


def install(patch: pytest.MonkeyPatch, **modules: ModuleType) -> None:
    """These modules are installed, and no other TensorRT."""
    for name in _NAMES:
        patch.setitem(sys.modules, name, modules.get(name))


def gpu(patch: pytest.MonkeyPatch, capability: tuple[int, int] | None, name: str = "NVIDIA H100") -> None:
    """The GPU that torch finds; ``None`` for none."""
    import torch

    patch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    patch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    patch.setattr(torch.cuda, "get_device_name", lambda: name)
