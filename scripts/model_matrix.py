"""Compiles one network of each of torchvision's families at 90 % for two backends, and prints what came of it.

    python scripts/model_matrix.py                          the whole table, as Markdown
    python scripts/model_matrix.py --only "ViT,ShuffleNet V2" --backend native
    python scripts/model_matrix.py --backend onnx           the native backend from ONNX files (or onnx-old)

Each network has random weights, pruned by magnitude (Erdos-Renyi-Kernel), and batch normalisations with the statistics
of noise. It goes the way of every checkpoint: written, exported, compiled, loaded; the artifact replays its golden
inputs, which torch answered before anything was folded. The figure is the largest difference relative to the largest
output; what does not compile is listed with the compiler's own reason. The columns `onnx` and `onnx-old` are native
code from the ONNX file that torch's new or old exporter writes, against ONNX Runtime on that file.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import st3
from compile.backend import Effort
from compile.lower import lower
from compile.native import toolchain
from runtime.check import replay
from runtime.data import Preprocessing
from runtime.engine import load
from runtime.errors import UserError
from train.network import Reference, factory
from train.one_shot import METHOD, prune_at_once, recalibrate
from train.untrained import fill_zero_weights
from train.untrained_facts import untrained_info

SPARSITY = 0.9
CLASSES = 10
BACKENDS = ("native", "onnxruntime")
EXPORTERS = {"onnx": True, "onnx-old": False}
"""Columns of ONNX files, and whether torch's new exporter writes them (opset 18) or the old one (17)."""
COLUMNS = (*BACKENDS, *EXPORTERS)
TOLERANCE = 1e-4


class Member(NamedTuple):
    """A family, its smallest network in torchvision, and the side of its pictures in pixels."""

    family: str
    network: str
    side: int


MEMBERS = (
    Member("AlexNet", "alexnet", 64),
    Member("ConvNeXt", "convnext_tiny", 64),
    Member("DenseNet", "densenet121", 64),
    Member("EfficientNet", "efficientnet_b0", 64),
    Member("EfficientNet V2", "efficientnet_v2_s", 64),
    Member("GoogLeNet", "googlenet", 64),
    Member("Inception v3", "inception_v3", 96),
    Member("MaxViT", "maxvit_t", 224),
    Member("MNASNet", "mnasnet0_5", 64),
    Member("MobileNet V2", "mobilenet_v2", 64),
    Member("MobileNet V3", "mobilenet_v3_small", 64),
    Member("RegNet X", "regnet_x_400mf", 64),
    Member("RegNet Y", "regnet_y_400mf", 64),
    Member("ResNet", "resnet18", 64),
    Member("ResNeXt", "resnext50_32x4d", 64),
    Member("ShuffleNet V2", "shufflenet_v2_x0_5", 64),
    Member("SqueezeNet", "squeezenet1_1", 64),
    Member("Swin", "swin_t", 64),
    Member("Swin V2", "swin_v2_t", 64),
    Member("VGG", "vgg11", 224),
    Member("ViT", "vit_b_32", 224),
    Member("Wide ResNet", "wide_resnet50_2", 64),
)


class Row(NamedTuple):
    """``backend`` is a column; ``error`` is relative to the largest output, ``None`` where ``reason`` says why."""

    family: str
    network: str
    side: int
    backend: str
    error: float | None
    reason: str
    seconds: float


def sparse_network(member: Member) -> tuple[nn.Module, st3.SparsityPlan, dict[str, tuple[str, str]]]:
    """The network, pruned, with its plan and what became of each layer."""
    torch.manual_seed(0)
    model = factory(Reference(f"torchvision:{member.network}"), CLASSES)().eval()
    fill_zero_weights(model)
    plan = st3.SparsityPlan(sparsity=SPARSITY, scope="erk")
    patterns = prune_at_once(model, plan)
    noise = torch.randn(8, 3, member.side, member.side)
    recalibrate(model, [(noise, torch.zeros(len(noise)))])
    return model.eval(), plan, patterns


def write_network(folder: Path, member: Member) -> Path:
    """The checkpoint that a training of this network would write."""
    model, plan, patterns = sparse_network(member)
    side = member.side
    info = untrained_info(
        plan,
        plan.pattern,
        recipe="matrix",
        method=METHOD,
        evaluation="none",
        preprocessing=Preprocessing((3, side, side), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        classes=tuple(map(str, range(CLASSES))),
        model=f"torchvision:{member.network}",
    )
    return st3.write_checkpoint(folder / member.network, model, info, patterns).folder


def write_onnx(folder: Path, member: Member, column: str) -> Path:
    """The file that a user would export, for any batch.

    Raises:
        UserError: torch's exporter does not take the network.
    """
    path, dynamo = folder / f"{member.network}.onnx", EXPORTERS[column]
    options: dict[str, Any] = {"dynamo": dynamo, "opset_version": 18 if dynamo else 17}
    if dynamo:
        options["dynamic_shapes"] = ({0: torch.export.Dim("batch")},)
    else:
        options |= {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    pictures = torch.zeros(2, 3, member.side, member.side)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters' own internals
        try:
            torch.onnx.export(sparse_network(member)[0], (pictures,), path, verbose=False, **options)
        except Exception as error:  # the exporters raise many types
            raise UserError(f"torch does not export it: {str(error).strip().splitlines()[0]}") from error
    return path


def compiled(folder: Path, member: Member, column: str) -> Row:
    """Compile for a column's backend, load, and compare with torch, or with ONNX Runtime on the file."""
    began = time.perf_counter()
    error, reason = None, ""
    try:
        source = write_onnx(folder, member, column) if column in EXPORTERS else folder / member.network
        if column in BACKENDS and not source.exists():
            write_network(folder, member)
        backend = "native" if column in EXPORTERS else column
        artifact = lower(source, folder / "artifacts", backend, (1,), 1, "native", Effort(tune=False))
        engine = load(artifact)
        try:
            error = replay(engine).error
        finally:
            engine.close()
            shutil.rmtree(artifact)
    except UserError as refusal:
        reason = str(refusal)
    seconds = time.perf_counter() - began
    return Row(member.family, member.network, member.side, column, error, reason, round(seconds, 1))


def markdown(rows: list[Row]) -> str:
    """One line per family, a column for each that was run."""
    backends = [name for name in COLUMNS if any(row.backend == name for row in rows)]
    lines = [
        f"| family | network | picture | {' | '.join(backends)} |",
        f"|---|---|---|{'---|' * len(backends)}",
    ]
    for network in dict.fromkeys(row.network for row in rows):
        mine = {row.backend: row for row in rows if row.network == network}
        cells = " | ".join(_cell(mine[name]) if name in mine else "not run yet" for name in backends)
        first = next(iter(mine.values()))
        lines.append(f"| {first.family} | `{network}` | {first.side} | {cells} |")
    return "\n".join(lines)


def _cell(row: Row) -> str:
    if row.error is None:
        return f"no: {_short(row.reason)}"
    return f"{row.error:.0e}" if row.error <= TOLERANCE else f"**differs: {row.error:.0e}**"


def _short(reason: str) -> str:
    """What a refusal names, without its advice."""
    return reason.partition(", which the native backend")[0].partition(";")[0].replace("|", "/")


def main() -> None:
    """Print the table; the rows as JSON lines too, where asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="families, with commas between")
    parser.add_argument(
        "--backend", action="append", choices=COLUMNS, help="repeat for several; default: the two backends"
    )
    parser.add_argument("--quick", action="store_true", help="let g++ optimise less: the numbers count, not the speed")
    parser.add_argument("--out", type=Path, help="append one JSON line per network and backend; go on where it ends")
    given = parser.parse_args()
    wanted = given.only.split(",") if given.only else [member.family for member in MEMBERS]
    unknown = set(wanted) - {member.family for member in MEMBERS}
    if unknown:
        parser.error(f"no family {sorted(unknown)}; there are {[member.family for member in MEMBERS]}")
    if given.quick:
        toolchain._FLAGS = tuple(  # type: ignore[assignment]
            "-O1" if flag == "-O3" else flag for flag in toolchain._FLAGS
        )
    rows = [Row(**json.loads(line)) for line in given.out.read_text().splitlines()] if _exists(given.out) else []
    for member in MEMBERS:
        todo = [name for name in given.backend or BACKENDS if not _has(rows, member, name)]
        if member.family not in wanted or not todo:
            continue
        with tempfile.TemporaryDirectory() as folder:
            for column in todo:
                rows.append(compiled(Path(folder), member, column))
                sys.stderr.write(f"{rows[-1]}\n")
                if given.out is not None:
                    with given.out.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(rows[-1]._asdict()) + "\n")
    order = [member.family for member in MEMBERS]
    sys.stdout.write(markdown(sorted(rows, key=lambda row: order.index(row.family))) + "\n")


def _exists(path: Path | None) -> bool:
    return path is not None and path.is_file()


def _has(rows: list[Row], member: Member, backend: str) -> bool:
    return any((row.network, row.backend) == (member.network, backend) for row in rows)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
