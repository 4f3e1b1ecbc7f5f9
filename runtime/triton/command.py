"""``st3 export-triton``: the options, and what was written."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from runtime.names import named
from runtime.triton.config import Options
from runtime.triton.repository import export


@click.command("export-triton")
@click.argument("artifacts", nargs=-1, required=True, metavar="[NAME=]ARTIFACT...")
@click.option("--out", "-o", required=True, type=click.Path(path_type=Path), help="The model repository's folder.")
@click.option("--python", is_flag=True, help="Python backend for all: Triton batches, st3-runtime must be installed.")
@click.option("--instances", type=click.IntRange(1), default=1, show_default=True, help="Instances of each model.")
@click.option(
    "--max-delay-us",
    type=click.IntRange(0),
    default=500,
    show_default=True,
    help="Microseconds that Triton waits for a batch to fill.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def export_triton(
    artifacts: tuple[str, ...], out: Path, python: bool, instances: int, max_delay_us: int, as_json: bool
) -> None:
    """Write ARTIFACTS (folders are searched) as a model repository of the Triton Inference Server.

    A TensorRT plan goes to Triton's tensorrt backend, an ONNX file to onnxruntime, an AOTInductor package to pytorch
    (torch_aoti); all others run in the Python backend with st3-runtime. TensorRT plans of several GPU architectures
    that are given one NAME become one model.
    """
    exported = export([named(text) for text in artifacts], out, Options(python, instances, max_delay_us))
    if as_json:
        click.echo(msgspec.json.encode(exported).decode())
        return
    for model in exported:
        batching = "batched by Triton" if model.batched else "of one fixed batch"
        click.echo(f"{model.folder}  {model.backend}  {', '.join(model.architectures)}  {batching}")
