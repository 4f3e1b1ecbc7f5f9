"""The ImageNet recipe from end to end on generated pictures: train, be killed, resume, evaluate."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from st3.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]

SMALL_BATCHES = """
import sys
import msgspec
import train.recipes.imagenet_resnet50 as module
from train.command import train
whole = module.recipe()
module.recipe = lambda: msgspec.structs.replace(whole, batch_size=2)
train(sys.argv[1:])
"""


@pytest.mark.exhaustive  # 1.5 minutes of processor time; the rate is the recipe's made smaller with the batch
def test_imagenet_recipe_is_killed_and_goes_on(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "checkpoint"
    make = [sys.executable, str(ROOT / "scripts/fake_imagenet.py"), str(data)]
    subprocess.run([*make, "--classes", "5", "--train", "20", "--val", "2"], check=True)
    command = [
        sys.executable, "-c", SMALL_BATCHES, "imagenet-resnet50", "--sparsity", "0.9", "--max-steps", "20",
        "--finetune-epochs", "0", "--learning-rate", "0.01", "--validate", "10",
        "--save-every", "5", "--device", "cpu", "--threads", "1", "--data", str(data), "--out", str(out),
        "--evaluation", str(tmp_path / "evaluation"), "--resume", "--json",
    ]  # fmt: skip
    victim = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob(".checkpoint.training/state-*[05]")):
        assert victim.poll() is None, "it ended before its first state"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    victim.kill()
    victim.wait()
    assert not out.exists()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["steps"], document["evaluation"], len(document["classes"])) == (20, "imagenet/val", 5)
    assert document["sparsity"] == pytest.approx(0.9, abs=1e-5)
    assert 0 <= document["accuracy"] <= 1
    assert (document["held_out"], document["selected_step"]) == (10, 20)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    assert load_checkpoint(out).info.plan.target == 0.9
