"""``st3 doctor``: every part that can be found is shown, whatever the others lack."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from runtime.errors import UserError
from st3 import doctor
from st3.doctor import Part


def look() -> str:
    return "seen"


def measure(report: doctor.Progress) -> str:
    report("half way", 0.5)
    return "measured"


def refuse() -> str:
    raise UserError("there is no such thing; get one")


def lack() -> str:
    raise ModuleNotFoundError("No module named 'torch'", name="torch.cuda")


def crash() -> str:
    raise ZeroDivisionError("a driver\nthat is broken")


def show(found: str) -> list[str]:
    return [f"it is {found}", "indeed"]


def part(key: str, function: str, seconds: float = 0.0, gpu: bool = False) -> Part:
    return Part(key, f"the {key}", f"{__name__}:{function}", f"{__name__}:show", seconds, gpu)


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = (
        part("eyes", "look"),
        part("shop", "refuse"),
        part("torch", "lack"),
        part("driver", "crash"),
        part("watch", "measure", seconds=1.0),
        part("card", "measure", seconds=1.0, gpu=True),
    )
    monkeypatch.setattr(doctor, "PARTS", found)


@pytest.mark.usefixtures("parts")
def test_what_is_missing_is_said_and_the_rest_is_shown() -> None:
    done = CliRunner().invoke(doctor.doctor, [], catch_exceptions=False)
    assert done.exit_code == 0
    text = done.stdout
    assert "it is seen\nindeed\n" in text
    assert "it is measured" in text
    assert "the shop: not known: there is no such thing; get one" in text
    assert "the torch: not known: No module named 'torch'; pip install torch" in text
    assert "the driver: not known: ZeroDivisionError: a driver\n" in text
    assert "card" not in text


@pytest.mark.usefixtures("parts")
def test_quick_measures_nothing_and_the_json_has_every_part() -> None:
    quick = json.loads(CliRunner().invoke(doctor.doctor, ["--quick", "--json"], catch_exceptions=False).stdout)
    assert quick["eyes"] == "seen"
    assert "watch" not in quick
    whole = json.loads(CliRunner().invoke(doctor.doctor, ["--json"], catch_exceptions=False).stdout)
    assert whole["watch"] == "measured"
    assert set(whole["missing"]) == {"shop", "torch", "driver"}


def test_each_part_of_a_run_has_its_share_of_the_bar() -> None:
    told: list[tuple[str, float]] = []
    report = doctor._scaled(lambda text, done: told.append((text, done)), start=5.0, seconds=20.0)
    report("a", 0.0)
    report("b", 0.25)
    assert told == [("a", 5.0), ("b", 10.0)]


def test_every_place_of_a_part_exists() -> None:
    for one in doctor.PARTS:
        assert callable(doctor._load(one.examine))
        assert callable(doctor._load(one.show))


def test_it_answers_without_torch_without_a_compiler_and_without_a_gpu() -> None:
    code = """
import sys
for name in ("torch", "onnxruntime", "onnx"):
    sys.modules[name] = None
from st3.cli import main
main(["doctor", "--quick", "--json"])
"""
    variables = {"CXX": "no-such-compiler", "PATH": "/nowhere", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["missing"] == {}
    assert found["gpus"] == []
    assert found["processor"]["machine"]["logical_cpus"] > 0
    by_name = {one["name"]: one for one in found["software"]}
    assert by_name["C++ compiler"]["problem"]
    assert by_name["torch with CUDA"]["install"] == "pip install torch"
