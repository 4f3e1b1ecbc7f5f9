"""Makes the int8 file that a user would measure against: ``python -m bench.quantize MODEL.onnx --calibration ...``.

ONNX Runtime's own tool does the work: static quantisation with QuantizeLinear and DequantizeLinear around each layer
(QDQ), which OpenVINO reads too; weights in int8 by channel, activations in uint8 within the range that the calibration
pictures give them.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
import numpy as np

from bench.machine.precision import precisions_of
from bench.measure.onnx_layers import dtype_of, fixed_batch, layers_of, read_model, spec_of
from bench.naming import FLOAT
from runtime.data import load_evaluation_set
from runtime.errors import UserError
from runtime.machine import cpu_flags
from runtime.pictures import read_inputs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

PICTURES = 128
_BATCH = 8
_SUFFIXES = (".npy", ".png", ".jpg", ".jpeg", ".bmp", ".webp")


class Quantised(msgspec.Struct, frozen=True):
    """What was made. ``layers`` are those with weights, ``int8`` those of them that are computed in it."""

    path: str
    layers: int
    int8: int
    pictures: int
    size_bytes: int
    size_bytes_float32: int


def quantise(model: Path, pictures: NDArray[np.float32], out: Path) -> Quantised:
    """Write the quantised file; it keeps the model's batch size.

    Args:
        model: a network of one picture tensor, in float32.
        pictures: normalised, ``(n, C, H, W)``; not those that accuracy is measured on.
        out: the file; replaced once it is whole.

    Raises:
        UserError: the model is none, is quantised already, or takes other or more pictures; the tool refuses it.
    """
    given = read_model(model)
    spec = spec_of(given, model)
    if dtype_of(given) != FLOAT:
        raise UserError(f"{model} is quantised already; give the float32 file that it was made from")
    size = spec.shape[0] or min(_BATCH, len(pictures))
    if pictures.shape[1:] != spec.shape[1:] or len(pictures) < size:
        raise UserError(
            f"{model} takes at least {size} pictures of {spec.shape[1:]}, got {len(pictures)} of {pictures.shape[1:]}"
        )
    batches = [pictures[start : start + size] for start in range(0, len(pictures) - size + 1, size)]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        part = Path(folder) / "int8.onnx"
        try:
            _run_tool(model, _reader(spec.name, batches), part)
        except Exception as error:  # the tool raises whatever it runs into
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"ONNX Runtime's tool cannot quantise {model}: {first}") from error
        part.replace(out)
    made = layers_of(fixed_batch(read_model(out), size), size)
    return Quantised(
        path=str(out),
        layers=len(made),
        int8=sum(layer.reason.endswith("int8") for layer in made),
        pictures=size * len(batches),
        size_bytes=out.stat().st_size,
        size_bytes_float32=model.stat().st_size,
    )


def _run_tool(model: Path, reader: object, out: Path) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = out.with_name("prepared.onnx")
    # folds batch normalisations, which have no form in int8
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(out),
        reader,
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        # without such instructions sums of two products overflow 16 bits, unless weights have 7
        reduce_range="int8" not in precisions_of(cpu_flags()),
    )


def _reader(name: str, batches: Iterable[NDArray[np.float32]]) -> object:
    from onnxruntime.quantization import CalibrationDataReader

    class Batches(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(batches)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self._left, None)
            return None if batch is None else {name: batch}

    return Batches()


def calibration_files(paths: Iterable[Path], evaluation: Path, most: int) -> tuple[Path, ...]:
    """Pictures and arrays among ``paths``, folders searched, ``most`` spread evenly over what is found.

    Raises:
        UserError: there is none, or they belong to the evaluation set.
    """
    found: list[Path] = []
    for path in paths:
        if path.resolve().is_relative_to(evaluation.resolve()):
            raise UserError(
                f"--calibration {path} belongs to the evaluation set, on which accuracy is measured; "
                f"give training pictures"
            )
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        found += [file for file in inside if path.is_file() or file.suffix.lower() in _SUFFIXES]
    if not found:
        raise UserError(f"no pictures and no .npy arrays in {', '.join(map(str, paths))}; give training pictures")
    return tuple(found[index] for index in spread(len(found), most))


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` indices, evenly spread: folders of classes come one after the other."""
    return [index * count // most for index in range(most)] if count > most else list(range(count))


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--calibration",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path, exists=True),
    help="Training pictures, folders of them, or .npy arrays of uint8 pictures or float32 inputs; repeatable.",
)
@click.option(
    "--evaluation", required=True, type=click.Path(path_type=Path), help="Evaluation set, for its preprocessing alone."
)
@click.option("--pictures", type=click.IntRange(1), default=PICTURES, show_default=True, help="How many to use.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The quantised file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
def main(model: Path, calibration: tuple[Path, ...], evaluation: Path, pictures: int, out: Path, as_json: bool) -> None:
    """Quantise the ONNX file MODEL to int8, to measure sparse artifacts against: `st3 bench --baseline openvino:OUT`.

    What is quantised is dense and is not st3's: it is what a user would run instead. Calibrate on training pictures,
    not on those of the evaluation set. A network whose accuracy suffers needs training for it, which this is not.
    """
    preprocessing = load_evaluation_set(evaluation).info.preprocessing
    inputs = read_inputs(calibration_files(calibration, evaluation, pictures), preprocessing)
    click.echo(f"calibrating on {min(len(inputs), pictures)} pictures", err=True)
    made = quantise(model, inputs[spread(len(inputs), pictures)], out)
    if as_json:
        click.echo(msgspec.json.encode(made).decode())
        return
    click.echo(
        f"{out}: {made.int8} of {made.layers} layers in int8, calibrated on {made.pictures} pictures; "
        f"{made.size_bytes / 1e6:.1f} MB of {made.size_bytes_float32 / 1e6:.1f}"
    )


if __name__ == "__main__":
    logging.getLogger().setLevel(logging.ERROR)  # the tool's own advice is followed already
    try:
        main()
    except UserError as error:
        sys.stderr.write(f"Error: {error}\n")
        raise SystemExit(2) from None
