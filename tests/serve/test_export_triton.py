"""The model repository: against Triton's own schema, and in a real Triton where one is installed."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from bench.serve.client import Address
from bench.serve.scenarios import get, get_json
from bench.serve.server import wait_until
from runtime.artifact import Target, list_files, open_artifact, write_manifest
from runtime.engine import load
from runtime.triton.config import compute_capability
from runtime.triton.python_model import TritonPythonModel
from st3.cli import main

PYTHON = os.environ.get("ST3_TRITON_PYTHON", sys.executable)


@pytest.fixture(scope="module")
def schema() -> Any:
    """Triton's ``model_config.proto`` as its client ships it, without the client's gRPC."""
    pytest.importorskip("google.protobuf", reason="protobuf is not installed")
    spec = importlib.util.find_spec("tritonclient")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("tritonclient is not installed, which has Triton's schema")
    path = Path(next(iter(spec.submodule_search_locations))) / "grpc/model_config_pb2.py"
    described = importlib.util.spec_from_file_location("st3_triton_schema", path)
    assert described is not None
    assert described.loader is not None
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module


def parsed(schema: Any, folder: Path) -> Any:
    from google.protobuf import text_format

    return text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())


def export(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["export-triton", *map(str, arguments)])
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def rebuilt(served: Path, folder: Path, engine: str, files: dict[str, bytes], **target: object) -> Path:
    """The artifact with another payload, as a GPU's compiler would write it."""
    shutil.copytree(served, folder)
    shutil.rmtree(folder / "payload")
    (folder / "payload").mkdir()
    for name, content in files.items():
        (folder / "payload" / name).write_bytes(content)
    manifest = open_artifact(served).manifest
    fields = msgspec.structs.asdict(manifest.target) | {"batch_sizes": (manifest.target.batch_size,)} | target
    changed = msgspec.structs.replace(
        manifest, engine=engine, target=Target(**fields), files=list_files(folder), classes=("a cat", "b\nd", "c")
    )
    write_manifest(folder, changed)
    return folder


def plan(served: Path, folder: Path, architecture: str, library: str = "tensorrt") -> Path:
    info = json.dumps({"library": library, "version": "10.13", "architecture": architecture}).encode()
    files = {"model.plan": architecture.encode(), "plan.json": info}
    return rebuilt(served, folder, "tensorrt", files, device="cuda", architecture=architecture, dtype="float16")


def test_native_goes_to_the_python_backend_with_the_artifact_beside_it(
    schema: Any, served: Path, tmp_path: Path
) -> None:
    code, output = export(f"net={served}", "-o", tmp_path, "--instances", 2, "--max-delay-us", 300, "--json")
    assert code == 0
    assert json.loads(output)[0]["backend"] == "python"
    config = parsed(schema, tmp_path / "net")
    assert (config.name, config.backend, config.max_batch_size) == ("net", "python", 4)
    assert list(config.input[0].dims) == [1, 8, 8]
    assert list(config.output[0].dims) == [3]
    assert config.input[0].data_type == schema.TYPE_FP32
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert config.dynamic_batching.max_queue_delay_microseconds == 300
    assert (config.instance_group[0].count, config.instance_group[0].kind) == (2, schema.ModelInstanceGroup.KIND_CPU)
    assert config.parameters["st3_digest"].string_value == f"sha256:{open_artifact(served).digest}"
    assert open_artifact(tmp_path / "net/1/artifact").digest == open_artifact(served).digest
    assert not list(tmp_path.glob(".*"))


def test_plans_of_several_gpus_are_one_model_with_a_file_for_each(schema: Any, served: Path, tmp_path: Path) -> None:
    plans = [plan(served, tmp_path / name, name) for name in ("sm_80", "sm_90")]
    code, _ = export(*(f"net={path}" for path in plans), "-o", tmp_path / "repository")
    assert code == 0
    folder = tmp_path / "repository/net"
    config = parsed(schema, folder)
    assert (config.backend, config.platform, config.max_batch_size) == ("tensorrt", "tensorrt_plan", 0)
    assert dict(config.cc_model_filenames) == {"8.0": "model_sm_80.plan", "9.0": "model_sm_90.plan"}
    assert (folder / "1/model_sm_80.plan").read_bytes() == b"sm_80"
    assert (folder / "1/model_sm_90.plan").read_bytes() == b"sm_90"
    assert list(config.input[0].dims) == [4, 1, 8, 8]  # a fixed batch is a dimension like any other
    assert not config.HasField("dynamic_batching")
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_GPU
    assert (folder / "labels.txt").read_text().splitlines() == ["a cat", "b d", "c"]
    assert config.output[0].label_filename == "labels.txt"


def test_each_payload_goes_where_triton_can_run_it(schema: Any, served: Path, tmp_path: Path) -> None:
    rtx = plan(served, tmp_path / "rtx", "sm_120", "tensorrt_rtx")
    package = rebuilt(served, tmp_path / "aoti", "inductor", {"model.pt2": b"p"}, device="cuda", architecture="sm_90")
    program = rebuilt(served, tmp_path / "program", "inductor", {"exported.pt2": b"p"})
    code, _ = export(f"rtx={rtx}", f"aoti={package}", f"program={program}", "-o", tmp_path / "repository")
    assert code == 0
    found = {name: parsed(schema, tmp_path / "repository" / name) for name in ("rtx", "aoti", "program")}
    assert (found["aoti"].backend, found["aoti"].platform) == ("pytorch", "torch_aoti")
    assert found["aoti"].input[0].name == "INPUT__0"
    assert (tmp_path / "repository/aoti/1/model.pt2").read_bytes() == b"p"
    assert [found[name].backend for name in ("rtx", "program")] == ["python", "python"]
    code, _ = export(f"aoti={package}", "-o", tmp_path / "python", "--python")
    config = parsed(schema, tmp_path / "python/aoti")
    assert (config.backend, config.max_batch_size) == ("python", 4)
    assert config.HasField("dynamic_batching")


def test_onnx_goes_as_it_is(schema: Any, served: Path, tmp_path: Path) -> None:
    artifact = rebuilt(served, tmp_path / "onnx", "onnxruntime", {"model.onnx": b"graph"})
    code, _ = export(f"net={artifact}", "-o", tmp_path / "repository")
    assert code == 0
    config = parsed(schema, tmp_path / "repository/net")
    assert (config.backend, config.platform) == ("onnxruntime", "onnxruntime_onnx")
    assert list(config.input[0].dims) == [4, 1, 8, 8]
    assert config.instance_group[0].kind == schema.ModelInstanceGroup.KIND_CPU
    assert (tmp_path / "repository/net/1/model.onnx").read_bytes() == b"graph"


def test_mistakes_are_one_line_and_leave_nothing(served: Path, other: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    for arguments, words in (
        (("/nowhere",), "there is no artifact at or below /nowhere"),
        ((f"a={served}", f"a={other}"), "all named 'a', which only TensorRT plans"),
        ((f"-a={served}",), ""),
        ((f"a b={served}",), "cannot be a model's name"),
    ):
        code, output = export(*arguments, "-o", repository)
        assert code == 2
        assert words in output
        assert not repository.exists()
    assert export(f"a={served}", "-o", repository)[0] == 0
    code, output = export(f"a={served}", "-o", repository)
    assert code == 2
    assert "exists; remove it" in output


def test_an_artifact_without_a_name_gets_one_that_triton_takes(compiled: Path, tmp_path: Path) -> None:
    code, output = export(compiled, "-o", tmp_path / "repository")
    assert code == 0, output
    assert [path.name for path in (tmp_path / "repository").iterdir()] == ["dense-native-b1"]


def test_gpu_architectures_as_triton_writes_them() -> None:
    assert [compute_capability(name) for name in ("sm_75", "sm_90a", "sm_120")] == ["7.5", "9.0", "12.0"]


def test_the_python_model_answers_a_batch_of_requests(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(f"net={served}", "-o", tmp_path)
    backend = types.ModuleType("triton_python_backend_utils")
    backend.get_input_tensor_by_name = lambda request, name: types.SimpleNamespace(as_numpy=lambda: request[name])  # type: ignore[attr-defined]
    backend.Tensor = lambda name, array: (name, array)  # type: ignore[attr-defined]
    backend.InferenceResponse = lambda tensors: tensors  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    digest = open_artifact(served).digest
    settings = {"st3_threads": {"string_value": "1"}, "st3_digest": {"string_value": f"sha256:{digest}"}}
    arguments = {"model_repository": str(tmp_path / "net"), "model_version": "1"}
    model = TritonPythonModel()
    model.initialize({"model_config": json.dumps({"parameters": settings}), **arguments})
    rows = np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)
    responses = model.execute([{"input": rows[:1]}, {"input": rows[1:]}])
    expected = load(served).run({"input": rows})["output"]
    assert [len(response[0][1]) for response in responses] == [1, 3]
    np.testing.assert_allclose(
        np.concatenate([response[0][1] for response in responses]), expected, rtol=1e-5, atol=1e-6
    )
    model.finalize()
    settings["st3_digest"]["string_value"] = "sha256:" + "0" * 64
    with pytest.raises(Exception, match="is not the required one"):
        TritonPythonModel().initialize({"model_config": json.dumps({"parameters": settings}), **arguments})


_FACTS = """
import importlib.util, json, pathlib, sys, sysconfig
spec = importlib.util.find_spec("pytriton")
assert spec is not None and importlib.util.find_spec("runtime") is not None
root = pathlib.Path(spec.origin).parent
print(json.dumps({"root": str(root), "libraries": str(root.parent / "nvidia_pytriton.libs"),
                  "python": sysconfig.get_config_var("LIBDIR"), "version": "%d.%d" % sys.version_info[:2]}))
"""


@contextlib.contextmanager
def tritonserver(repository: Path) -> Iterator[Address]:
    """The server that the wheel ``nvidia-pytriton`` brings, with its Python backend; skips where there is none."""
    facts = subprocess.run([PYTHON, "-c", _FACTS], capture_output=True, text=True, check=False)
    if facts.returncode:
        pytest.skip("no tritonserver: ST3_TRITON_PYTHON may name a Python that has nvidia-pytriton and st3-runtime")
    where = json.loads(facts.stdout)
    root = Path(where["root"]) / "tritonserver"
    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        backend = Path(folder) / "backends/python"
        shutil.copytree(root / "backends/python", backend)
        shutil.copy(root / "python_backend_stubs" / where["version"] / "triton_python_backend_stub", backend)
        free.bind(("127.0.0.1", 0))
        address = Address("127.0.0.1", free.getsockname()[1])
        free.close()
        command = [
            str(root / "bin/tritonserver"),
            f"--model-repository={repository}",
            f"--backend-directory={backend.parent}",
        ]
        command += [
            f"--http-port={address.port}",
            "--http-address=127.0.0.1",
            "--allow-grpc=false",
            "--allow-metrics=false",
        ]
        environment = os.environ | {
            "PATH": f"{Path(PYTHON).parent}:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": f"{where['libraries']}:{where['python']}",
        }
        with (Path(folder) / "log").open("w+b") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            try:
                wait_until("a ready Triton", lambda: process.poll() is not None or ready(address), 60.0)
                log.seek(0)
                assert process.poll() is None, log.read().decode(errors="replace")[-3000:]
                yield address
            finally:
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(30)
                process.kill()
                process.wait()


def ready(address: Address) -> bool:
    with contextlib.suppress(OSError):
        get(address, "/v2/health/ready")
        return True
    return False


def test_a_real_triton_loads_the_repository_and_answers_like_the_engine(served: Path, tmp_path: Path) -> None:
    from bench.serve.client import infer_request
    from bench.serve.malformed import exchange

    assert export(f"net={served}", "-o", tmp_path / "repository", "--instances", 2)[0] == 0
    rows = np.random.default_rng(1).standard_normal((3, 1, 8, 8)).astype(np.float32)
    with tritonserver(tmp_path / "repository") as address:
        metadata = get_json(address, "/v2/models/net")
        assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
        request = infer_request("net", "input", rows, as_json=True).replace(
            b"Host: load", b"Host: x\r\nConnection: close"
        )
        reply = exchange(address, request, 30.0)
    assert reply.status == 200, reply
    answer = np.array(json.loads(reply.body)["outputs"][0]["data"], np.float32).reshape(3, 3)
    np.testing.assert_allclose(answer, load(served).run({"input": rows})["output"], rtol=1e-5, atol=1e-6)
