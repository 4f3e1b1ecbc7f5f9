"""The Dockerfile's steps done by hand, and what they make started as kubernetes.yaml starts it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from wheels import ALONE, ROOT, build_wheel, call, venv_with

from bench.serve.client import Address, infer_request
from bench.serve.malformed import Reply, exchange
from bench.serve.server import wait_until

yaml = pytest.importorskip("yaml", reason="pyyaml is not installed")

FOLDER = ROOT / "docs/deploy"
# the interpreter may lie in a home that no other user may enter: this one may read everything, and write nothing
CAPABILITY = "+dac_read_search"
READ_ONLY = 'mount -o remount,ro,bind / && exec setpriv "$@"'


class Image(NamedTuple):
    """A folder in the place of the image's root, its Python's commands, who runs it, and what it starts."""

    root: Path
    commands: Path
    user: int
    entrypoint: list[str]


def instructions(text: str) -> list[tuple[str, str]]:
    """Keyword and rest of each instruction of a Dockerfile, comments and line ends taken out."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in joined]


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    """The image; outside pytest's own folders, which only one user may enter."""
    root = Path(tempfile.mkdtemp(prefix="st3-image-"))
    root.chmod(0o755)
    try:
        yield build(root)
    finally:
        for path in (root, *root.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        shutil.rmtree(root)


def build(root: Path) -> Image:
    context, commands = root / "context", root / "venv/bin"
    shutil.copytree(FOLDER, context)
    build_wheel(context)
    needed = ("numpy", "msgspec", "aiohttp", "click", "prometheus_client", "cryptography")  # for want of a network
    python = venv_with(root / "venv", needed)
    pip = commands / "pip"
    pip.write_text(f'#!/bin/sh\nexec {sys.executable} -m pip --python {python} "$@"\n')
    pip.chmod(0o755)
    (root / "tmp").mkdir()
    found: dict[str, Any] = {}
    for keyword, rest in instructions((context / "Dockerfile").read_text()):
        if keyword == "COPY":
            pattern, place = rest.split()
            assert place.startswith("/")
            sources = list(context.glob(pattern))
            assert sources, f"COPY {rest}: nothing is called {pattern}"
            for source in sources:
                shutil.copy(source, root / place[1:])
        elif keyword == "RUN":
            environment = ALONE | {"PATH": f"{commands}:{os.environ['PATH']}", "PIP_NO_INDEX": "1"}
            subprocess.run(["sh", "-ec", rest.replace("/tmp/", f"{root}/tmp/")], env=environment, check=True)
        else:
            found[keyword] = rest
    assert not list((root / "tmp").iterdir())
    assert set(found) == {"FROM", "USER", "EXPOSE", "ENTRYPOINT"}
    assert re.fullmatch(r"python:3\.1[0-3]-slim", found["FROM"])  # what the wheel's requires-python allows
    return Image(root, commands, int(found["USER"]), json.loads(found["ENTRYPOINT"]))


def confined(user: int) -> list[str]:
    """Words before a command that make it run as that user, with all file systems read-only, as far as we may."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("setpriv") is None:
        return []
    who = [f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs"]
    which = [f"--{kind}=-all,{CAPABILITY}" for kind in ("inh-caps", "bounding-set")]
    words = ["unshare", "--mount", "sh", "-ec", READ_ONLY, "sh", *who, *which, f"--ambient-caps={CAPABILITY}"]
    return words if subprocess.run([*words, "true"], check=False, capture_output=True).returncode == 0 else []


def test_the_image_serves_and_stops_as_the_example_says(image: Image, served: Path) -> None:
    documents = {d["kind"]: d for d in yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())}
    pod = documents["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsUser"] == image.user
    assert (image.commands / container["lifecycle"]["preStop"]["exec"]["command"][0]).exists()
    models, keys = image.root / "models/model", image.root / "keys"
    shutil.copytree(served, models)
    keys.mkdir()
    runtime = image.commands / "st3-runtime"
    call(runtime, "keygen", "--key", "private.pem", "--public-key", "public.pem", cwd=keys)
    call(runtime, "sign", models, "--key", keys / "private.pem", cwd=keys)
    for path in (image.root, *image.root.rglob("*")):
        if not path.is_symlink():
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~0o222)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    changed = {"--port=8000": f"--port={port}", "--drain=5": "--drain=1", "--host=0.0.0.0": "--host=127.0.0.1"}
    words = [changed.get(word, word) for word in container["args"]]
    words = [word.replace("=/models", f"={image.root}/models").replace("=/keys", f"={keys}") for word in words]
    server = subprocess.Popen(
        [*confined(image.user), *image.entrypoint, *words],
        cwd="/",
        env={"PATH": f"{image.commands}:{os.environ['PATH']}", "HOME": "/"},
        stderr=subprocess.PIPE,
    )
    try:
        check_life(server, Address("127.0.0.1", port), container, image.user)
    finally:
        server.kill()
        server.wait()


def check_life(server: subprocess.Popen[bytes], address: Address, container: dict[str, Any], user: int) -> None:
    """Ready by its probes, answers, and after SIGTERM answers what comes until it ends with 0."""

    def probe(name: str) -> int:
        head = f"GET {container[name]['httpGet']['path']} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        return exchange(address, head.encode(), 5.0).status

    def infer() -> Reply:
        request = infer_request("model", "input", np.ones((2, 1, 8, 8), np.float32), as_json=True)
        return exchange(address, request.replace(b"Host: load", b"Host: x\r\nConnection: close"), 20.0)

    limit = container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"]
    wait_until("ready", lambda: probe("startupProbe") == 200 or server.poll() is not None, limit)
    assert server.poll() is None, server.communicate()[1].decode()
    if confined(user):
        assert Path(f"/proc/{server.pid}").stat().st_uid == user
    assert probe("readinessProbe") == probe("livenessProbe") == 200
    assert len(msgspec.json.decode(infer().body)["outputs"][0]["data"]) == 6
    server.send_signal(signal.SIGTERM)
    wait_until("not ready", lambda: probe("readinessProbe") == 400)
    assert probe("livenessProbe") == 200
    assert infer().status == 200
    assert server.wait(60) == 0, server.communicate()[1].decode()
