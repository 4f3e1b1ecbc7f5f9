"""What is said where a TensorRT, a GPU or a fitting plan is missing, with stubs for what this machine may lack."""

from __future__ import annotations

import logging
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import msgspec
import pytest
import torch
from onnx import ModelProto
from support import export_module
from torch import nn
from trt_stubs import ERROR, VERBOSE, gpu, install, stub

from compile.backends import tensorrt, torch_tensorrt
from compile.from_checkpoint import TorchNetwork
from compile.tensorrt import half_program as halving
from compile.tensorrt import through_torch
from compile.tensorrt.builder import build_plan, timing_file
from compile.tensorrt.choose import choose
from compile.tensorrt.half_program import half_program
from runtime.artifact import Target
from runtime.engines.tensorrt import check_gpu
from runtime.errors import ArtifactError, UserError
from runtime.trt import RTX, TENSORRT, Library, PlanInfo, find, is_installed, read_info, require

EFFORT = tensorrt.Effort()
PLAN = PlanInfo(TENSORRT, "10.15.1.29", "sm_90", "NVIDIA H100")


def refused(call: object, *arguments: object) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    return str(caught.value)


def test_no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    gpu(monkeypatch, (9, 0))
    assert tensorrt.unable("cuda") == (
        "TensorRT is not installed: pip install tensorrt-cu13 (or tensorrt-cu12; from NVIDIA's index, on a machine "
        "with a driver); TensorRT for RTX, which builds without a GPU: pip install --no-deps tensorrt-rtx-cu13-libs "
        "tensorrt-rtx-cu13-bindings"
    )
    assert refused(choose, "sm_90").startswith("--backend tensorrt: TensorRT is not installed: pip install")


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tensorrt=stub())
    gpu(monkeypatch, None)
    assert tensorrt.unable("cuda") == (
        "TensorRT times its kernels on the GPU that it builds for, and there is none here; build on that machine, "
        "or use --backend inductor"
    )
    assert refused(tensorrt.architecture, "native") == (
        "there is no NVIDIA GPU here; say which one to build for: --arch sm_89"
    )
    assert refused(tensorrt.architecture, "hopper") == (
        "--arch hopper is no GPU architecture; give native or sm_NN, for instance sm_90"
    )


def test_another_gpu_than_the_one_at_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, (9, 0))
    install(monkeypatch, tensorrt=stub())
    assert choose("sm_90").key == TENSORRT
    assert refused(choose, "sm_89") == (
        "TensorRT builds for the GPU at hand, sm_90, not for sm_89; build where such a GPU is, "
        "or use --backend inductor"
    )
    install(monkeypatch, tensorrt=stub(), tensorrt_rtx=stub("1.7.1.116"))
    assert choose("sm_89").key == RTX
    assert choose("sm_90").key == TENSORRT


def test_tensorrt_for_rtx_does_not_know_every_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, None)
    install(monkeypatch, tensorrt_rtx_bindings=stub("1.7.1.116"))
    assert tensorrt.unable("cuda") is None
    assert refused(choose, "sm_90") == (
        "TensorRT for RTX 1.7.1.116 builds for sm_75, sm_89, sm_120, not for sm_90; install TensorRT on a machine with "
        "such a GPU: pip install tensorrt-cu13 (or tensorrt-cu12; from NVIDIA's index, on a machine with a driver), "
        "or use --backend inductor"
    )


def test_devices_and_dtypes(tmp_path: Path) -> None:
    for backend in (tensorrt, torch_tensorrt):
        assert "give --target cuda, or --backend native for a CPU" in str(backend.unable("cpu"))
        assert not backend.uses_zeros("cpu")
        text = refused(backend.build, None, Target("cuda", "sm_90", "bfloat16", 1, 1), tmp_path, EFFORT)
        assert "builds for --dtype float16, got bfloat16" in text


def test_a_folder_of_that_name_is_no_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "meta_path", [finder for finder in sys.meta_path if "PathFinder" in str(finder)])
    assert not is_installed(TENSORRT)


def test_an_installation_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    monkeypatch.delitem(sys.modules, "tensorrt")
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert refused(find, TENSORRT) == (
        "TensorRT is installed and cannot be loaded (libnvinfer.so.10: cannot open shared object file); install it "
        "again: pip install tensorrt-cu13 (or tensorrt-cu12; from NVIDIA's index, on a machine with a driver)"
    )


def test_the_builder_is_asked_for_sparse_weights_and_strong_types() -> None:
    trt = stub("1.7.1.116", says=[(VERBOSE, "(Sparsity) Chose 1 layer(s) using sparse tactics: a")])
    built = build_plan(Library(RTX, "1.7.1.116", trt), ModelProto(), "sm_89")
    assert built.plan == b"plan"
    assert built.log == ("[V] (Sparsity) Chose 1 layer(s) using sparse tactics: a",)
    assert (trt.state.network_flags, trt.state.flags, trt.state.capability) == (1 << 1, [6], (89, 0))
    assert not trt.state.caches  # RTX times nothing when it builds


def test_what_the_parser_and_the_builder_refuse() -> None:
    trt = stub("1.7.1.116", parses=False, errors=["no importer for Foo"])
    assert refused(build_plan, Library(RTX, "1.7.1.116", trt), ModelProto(), "sm_89") == (
        "TensorRT for RTX 1.7.1.116 cannot read the network: no importer for Foo; use another backend"
    )
    trt = stub("1.7.1.116", plan=None, says=[(ERROR, "no implementation for conv1")])
    assert refused(build_plan, Library(RTX, "1.7.1.116", trt), ModelProto(), "sm_89") == (
        "TensorRT for RTX 1.7.1.116 cannot build the network for sm_89: no implementation for conv1; "
        "use another backend"
    )
    trt = stub("1.7.1.116", plan=None)
    assert "it says nothing of why" in refused(build_plan, Library(RTX, "1.7.1.116", trt), ModelProto(), "sm_89")


def test_timings_are_kept_per_version_and_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    gpu(monkeypatch, (9, 0), "NVIDIA H100 80GB HBM3")
    trt = stub(inspection='{"Layers": []}')
    library = Library(TENSORRT, "10.15.1.29", trt)
    path = timing_file(library, "NVIDIA H100 80GB HBM3")
    assert path == tmp_path / "st3/tensorrt-10.15.1.29-NVIDIA_H100_80GB_HBM3.timings"
    assert build_plan(library, ModelProto(), "sm_90").inspection == '{"Layers": []}'
    assert path.read_bytes() == b"+measured"
    build_plan(library, ModelProto(), "sm_90")
    assert trt.state.caches == [b"", b"+measured"]
    path.write_bytes(b"damaged")  # begun anew
    build_plan(library, ModelProto(), "sm_90")
    assert trt.state.caches[-2:] == [b"damaged", b""]
    assert path.read_bytes() == b"+measured"


def test_a_plan_runs_in_the_version_that_built_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    assert refused(require, PLAN) == (
        "this artifact needs TensorRT 10.15.1.29, which is not installed: pip install tensorrt-cu13 (or tensorrt-cu12; "
        "from NVIDIA's index, on a machine with a driver), version 10.15.1.29"
    )
    install(monkeypatch, tensorrt=stub("11.0.0.1"))
    assert refused(require, PLAN) == (
        "this artifact was built by TensorRT 10.15.1.29 and 11.0.0.1 is installed; a plan runs only in the version "
        "that built it: install 10.15.1.29 or compile again"
    )
    install(monkeypatch, tensorrt=stub("10.15.1.29"))
    assert require(PLAN).title == "TensorRT 10.15.1.29"
    assert "which this runtime does not know" in refused(require, msgspec.structs.replace(PLAN, library="openvino"))
    assert "plan.json cannot be read" in refused(read_info, tmp_path)


def test_a_plan_runs_on_the_gpu_that_it_was_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, None)
    assert refused(check_gpu, PLAN) == "this artifact needs an NVIDIA GPU (sm_90), and torch finds none here"
    gpu(monkeypatch, (8, 9), "NVIDIA L4")
    assert refused(check_gpu, PLAN) == (
        "this artifact was built for sm_90 (NVIDIA H100), the GPU here is sm_89 (NVIDIA L4); compile it for this one: "
        "--arch sm_89"
    )
    gpu(monkeypatch, (9, 0), "NVIDIA H200")
    with pytest.warns(UserWarning, match="this plan was tuned on NVIDIA H100 and runs on NVIDIA H200; compile it here"):
        check_gpu(PLAN)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ArtifactError, match="torch is not installed, which allocates the memory that TensorRT runs in"):
        check_gpu(PLAN)


def test_no_torch_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    assert torch_tensorrt.unable("cuda") == (
        "torch-tensorrt is not installed: pip install torch-tensorrt (torch 2.11 to 2.14 each have one of their own; "
        "torch 2.15 has none); or use --backend tensorrt"
    )
    assert refused(through_torch.load).startswith("--backend torch_tensorrt: torch-tensorrt is not installed")
    monkeypatch.setitem(sys.modules, "torch_tensorrt", torch_tensorrt_stub())
    gpu(monkeypatch, None)
    assert torch_tensorrt.unable("cuda") == (
        "torch-tensorrt builds on the GPU that it builds for, and there is none here; use --backend tensorrt"
    )
    gpu(monkeypatch, (9, 0))
    assert torch_tensorrt.architecture("native") == torch_tensorrt.architecture("sm_90") == "sm_90"
    assert refused(torch_tensorrt.architecture, "sm_89") == (
        "torch-tensorrt builds for the GPU at hand, sm_90, not for sm_89; use --backend tensorrt"
    )
    install(monkeypatch)
    assert refused(through_torch.load).startswith("torch-tensorrt is installed without TensorRT; pip install")


def test_torch_tensorrt_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, (9, 0))
    monkeypatch.delitem(sys.modules, "torch_tensorrt", raising=False)
    (tmp_path / "torch_tensorrt.py").write_text("raise OSError('undefined symbol: _ZN3c10')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert refused(through_torch.load).startswith(
        f"torch-tensorrt is installed and cannot be loaded with torch {torch.__version__} (undefined symbol: _ZN3c10);"
    )


def torch_tensorrt_stub() -> ModuleType:
    module = ModuleType("torch_tensorrt")
    module.__spec__ = ModuleSpec("torch_tensorrt", None, origin="stub")
    module.__version__ = "2.11.0"
    module.asked = {}

    def convert(program: torch.export.ExportedProgram, **options: object) -> bytes:
        logging.getLogger("torch_tensorrt [TensorRT Conversion Context]").info("(Sparsity) Chose 1 layer(s) using")
        module.asked.update(options, program=program)
        if module.asked.get("fails"):
            raise RuntimeError("no converter for aten.foo")
        return b"plan"

    module.dynamo = SimpleNamespace(convert_exported_program_to_serialized_trt_engine=convert)
    return module


def test_torch_tensorrt_builds_whole_with_sparse_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, (9, 0))
    network = TorchNetwork(export_module(nn.Conv2d(4, 4, 1), (4, 8, 8)), (4, 8, 8), 2)
    program, _ = half_program(network.program(), network.input_shape)
    module, library = torch_tensorrt_stub(), Library(TENSORRT, "10.15.1.29", stub(inspection='{"Layers": []}'))
    built = through_torch.build_through_torch(module, library, program)
    assert (built.plan, built.inspection) == (b"plan", '{"Layers": []}')
    assert "[I] (Sparsity) Chose 1 layer(s) using" in built.log
    assert module.asked["sparse_weights"] is module.asked["require_full_compilation"] is True
    (example,) = module.asked["arg_inputs"]
    assert (example.shape, example.dtype) == ((2, 4, 8, 8), torch.float32)
    assert not logging.getLogger("torch_tensorrt").handlers
    module.asked["fails"] = True
    assert refused(through_torch.build_through_torch, module, library, program) == (
        "torch-tensorrt 2.11.0 cannot build the network: no converter for aten.foo; use --backend tensorrt"
    )


def test_torch_tensorrt_is_given_the_program_of_the_rehearsal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Halved once and ordered once, then moved to the GPU."""
    asked, library = torch_tensorrt_stub(), Library(TENSORRT, "10.15.1.29", stub(inspection='{"Layers": []}'))
    monkeypatch.setattr(torch_tensorrt.choose, "gpu_here", lambda wanted: wanted)
    monkeypatch.setattr(through_torch, "load", lambda: (asked, library))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    moved, ordered, order = [], [], halving.order_hidden
    monkeypatch.setattr(torch_tensorrt, "move_to_device_pass", lambda *given: moved.append(given) or given[0])
    monkeypatch.setattr(halving, "order_hidden", lambda module: ordered.append(module) or order(module))
    network = TorchNetwork(export_module(nn.Conv2d(4, 4, 1), (4, 8, 8)), (4, 8, 8), 2)
    built = torch_tensorrt.build(network, Target("cuda", "sm_90", "float16", 2, 1), tmp_path, EFFORT)
    ((program, device),) = moved
    assert (device, len(ordered)) == ("cuda", 1)
    assert asked.asked["program"] is program
    assert (tmp_path / "payload/model.plan").read_bytes() == b"plan"
    picture = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        answer = program.module()(picture).numpy()
    torch.testing.assert_close(answer, network.answer(picture.numpy())[0], atol=2e-2, rtol=0)
    assert len(built.deviations) == 1
