"""Writes the C++ of a network: one struct of constants per step, and the function that runs the steps."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from compile.formats import dense, offset_stream
from compile.graph import Add, Conv, Mean, Pool
from compile.native.geometry import Placement, gather_table, inside_masks, scatter_table
from compile.native.isa import Isa
from compile.native.plan import Compute, Gather, Plan, Scatter, Step
from compile.native.schedule import Schedule
from compile.native.taps import Taps
from compile.native.weights import WeightFile
from runtime.abi import ABI_VERSION


class Source(msgspec.Struct, frozen=True):
    """Generated C++ and the bytes of its weight file."""

    text: str
    weights: bytes


class _Piece(msgspec.Struct, frozen=True):
    """A step's struct of constants, its number of tasks, and the body of one task (C++)."""

    constants: dict[str, str]
    tasks: str
    body: str
    comment: str


def emit(plan: Plan, schedules: dict[str, Schedule], isa: Isa) -> Source:
    """Generate the network; ``schedules`` has one entry per convolution, by output name."""
    file = WeightFile()
    tensors = {name: _tensor_struct(plan, name, file) for name in sorted(plan.clean)}
    pieces = [_piece(plan, step, schedules, file) for step in plan.steps]
    weights, content = file.finish()
    lines = [
        "// Generated; what the names mean is said in the headers.",
        f"#define ST3_ABI_VERSION {ABI_VERSION}",
        f"#define ST3_LANES {isa.lanes}",
        *(f'#include "{name}.h"' for name in ("model", "move", "offset_stream", "dense", "pool")),
        "namespace {",
        "using namespace st3;",
        *(_struct(f"Tensor{_index(plan, name)}", constants, name) for name, constants in tensors.items()),
        *(_struct(f"Step{i}", piece.constants, piece.comment) for i, piece in enumerate(pieces)),
        _network(plan, pieces, len(weights), content),
        "}  // namespace",
        "ST3_ABI(Network)",
        "",
    ]
    return Source("\n".join(lines), weights)


def _struct(name: str, constants: dict[str, str], comment: str) -> str:
    body = "".join(f"  static constexpr {key} = {value};\n" for key, value in constants.items())
    return f"// {comment}\nstruct {name} {{\n{body}}};"


def _network(plan: Plan, pieces: list[_Piece], weight_bytes: int, content: int) -> str:
    channels, height, width = plan.graph.shapes[plan.graph.input]
    outputs = math.prod(plan.graph.shapes[plan.graph.output])
    constants = {
        "int STEPS": str(len(pieces)),
        "int GROUPS": str(plan.groups),
        "long ARENA": str(plan.size),
        "uint64_t WEIGHT_BYTES": str(weight_bytes),
        "uint64_t CONTENT": f"{content:#x}ull",
        "long INPUT_FLOATS": str(plan.images * channels * height * width),
        "long OUTPUT_FLOATS": str(plan.images * outputs),
    }
    body = "".join(
        f"    crew.each({i}, {piece.tasks}, [&](int task) {{\n      using S = Step{i};\n{piece.body}    }});\n"
        for i, piece in enumerate(pieces)
    )
    head = "  static void run(const char* weights, Crew& crew, char* arena, const float* input, float* output) {\n"
    fields = "".join(f"  static constexpr {key} = {value};\n" for key, value in constants.items())
    return f"struct Network {{\n{fields}{head}{body}  }}\n}};"


def _index(plan: Plan, tensor: str) -> int:
    return list(plan.tensors).index(tensor)


def _tensor_struct(plan: Plan, name: str, file: WeightFile) -> dict[str, str]:
    placement = plan.tensors[name]
    edges, start = placement.edges()
    return {
        "long CHANNEL": str(placement.channel_stride),
        "float FILL": _literal(placement.fill),
        "long EDGES": str(file.add(edges)),
        "long START": str(file.add(start)),
    }


def _literal(value: float) -> str:
    if math.isinf(value):
        return "-__builtin_inff()" if value < 0 else "__builtin_inff()"
    return f"{value:.9g}f" if "." in f"{value:.9g}" or "e" in f"{value:.9g}" else f"{value:.9g}.0f"


def _origin(plan: Plan, tensor: str, row: int = 0, column: int = 0) -> int:
    """Byte offset in the arena of a tensor's vector at (row, column) of channel 0."""
    return plan.offsets[tensor] + plan.tensors[tensor].offset(row, column)


def _exchange(plan: Plan, tensor: str, rows: str, channels: str) -> str:
    """C++ that rewrites the halo that depends on some rows and channels, where anybody reads it."""
    if tensor not in plan.clean:
        return ""
    name = f"Tensor{_index(plan, tensor)}"
    return (
        f"      exchange<{name}>(arena + {plan.offsets[tensor]},\n"
        f"          reinterpret_cast<const Edge*>(weights + {name}::EDGES),\n"
        f"          reinterpret_cast<const int32_t*>(weights + {name}::START), {rows}, {channels});\n"
    )


def _piece(plan: Plan, step: Step, schedules: dict[str, Schedule], file: WeightFile) -> _Piece:
    if isinstance(step, Gather):
        return _gather(plan, step, file)
    if isinstance(step, Scatter):
        return _scatter(plan, step, file)
    node = step.node
    if isinstance(node, Conv):
        return _conv(plan, step, node, schedules[node.output], file)
    if isinstance(node, Pool):
        return _pool(plan, step, node)
    if isinstance(node, Mean):
        return _mean(plan, step, file)
    return _add(plan, step, node)


def _gather(plan: Plan, step: Gather, file: WeightFile) -> _Piece:
    target = plan.tensors[step.target]
    shape = plan.graph.shapes[step.source]
    source = shape if step.plain else plan.tensors[step.source]
    table = gather_table(source, target, step.step)
    stride = 4 * shape[1] * shape[2] if isinstance(source, tuple) else source.channel_stride
    place = "reinterpret_cast<const char*>(input)" if step.plain else f"arena + {plan.offsets[step.source]}"
    constants = {
        "int WIDTH": str(target.width),
        "int CHANNELS": str(target.channels),
        "long SOURCE_CHANNEL": str(stride),
        "long TARGET_CHANNEL": str(target.channel_stride),
        "long TARGET_ROW": str(target.row_stride),
        "float FILL": _literal(target.fill),
        "long INDEX": str(file.add(table)),
    }
    body = (
        f"      gather_row<S>({place}, arena + {plan.offsets[step.target]},\n"
        "          reinterpret_cast<const int32_t*>(weights + S::INDEX), task);\n"
    )
    return _Piece(constants, str(table.shape[0]), body, f"{step.target}: relayout of {step.source}")


def _scatter(plan: Plan, step: Scatter, file: WeightFile) -> _Piece:
    source = plan.tensors[step.source]
    geometry = source.geometry
    constants = {
        "int CHANNELS": str(source.channels),
        "int IMAGES": str(geometry.images),
        "int PIXELS": str(geometry.height * geometry.width),
        "long SOURCE_CHANNEL": str(source.channel_stride),
        "long INDEX": str(file.add(scatter_table(source))),
    }
    body = (
        f"      for (int channel = task * 64; channel < S::CHANNELS && channel < task * 64 + 64; channel++)\n"
        f"        scatter_channel<S>(arena + {plan.offsets[step.source]}, output,\n"
        "            reinterpret_cast<const int32_t*>(weights + S::INDEX), channel);\n"
    )
    return _Piece(constants, str(-(-source.channels // 64)), body, f"result from {step.source}")


def _conv(plan: Plan, step: Compute, node: Conv, schedule: Schedule, file: WeightFile) -> _Piece:
    assert step.window is not None
    window, source, target = step.window, plan.tensors[step.inputs[0]], plan.tensors[node.output]
    residual = plan.tensors[step.inputs[1]] if len(step.inputs) > 1 else None
    blocks = -(-target.geometry.rows // schedule.tile_rows)
    taps = Taps(
        source.channels,
        node.groups,
        source.channel_stride,
        window.dilation[0] * source.row_stride,
        window.dilation[1] * source.vector,
    )
    constants = {
        "int ROWS": str(target.geometry.rows),
        "int COLUMNS": str(target.geometry.columns),
        "int TILE_ROWS": str(schedule.tile_rows),
        "int TILE_COLUMNS": str(schedule.tile_columns),
        "int CHANNELS": str(target.channels),
        "long X_ROW": str(window.stride[0] * source.row_stride),
        "long X_COLUMN": str(window.stride[1] * source.vector),
        "long Y_ROW": str(target.row_stride),
        "long Y_CHANNEL": str(target.channel_stride),
        "bool RESIDUAL": "true" if residual else "false",
        "long R_ROW": str(residual.row_stride if residual else 0),
        "long R_CHANNEL": str(residual.channel_stride if residual else 0),
        "Activation ACTIVATION": node.activation.upper(),
        "int GROUPS": str(schedule.groups),
        "long BIAS": str(file.add(node.bias)),
    }
    pack = _pack_dense if schedule.format == "dense" else _pack_stream
    kernel, bounds = pack(node, schedule, taps, constants, file)
    constants[f"int BOUNDS[{len(bounds)}]"] = "{" + ", ".join(map(str, bounds)) + "}"
    addend = f"arena + {_origin(plan, step.inputs[1])}" if residual else "nullptr"
    rows = f"block * S::TILE_ROWS, (block + 1 < {blocks} ? (block + 1) * S::TILE_ROWS : S::ROWS)"
    body = (
        "      const int block = task / S::GROUPS, group = task % S::GROUPS;\n"
        f"      each_tile<S>(block, {kernel[0]}<S>{{weights,\n"
        f"          arena + {_origin(plan, step.inputs[0], -window.padding[0], -window.padding[1])},\n"
        f"          arena + {_origin(plan, node.output)}, {addend}, {kernel[1]}}});\n"
        + _exchange(plan, node.output, rows, "S::BOUNDS[group], S::BOUNDS[group + 1]")
    )
    comment = f"{node.layer}: {node.op} {node.weight.shape}, {schedule.format}: {schedule.reason}"
    return _Piece(constants, f"{blocks} * Step{plan.steps.index(step)}::GROUPS", body, comment)


def _pack_stream(
    node: Conv, schedule: Schedule, taps: Taps, constants: dict[str, str], file: WeightFile
) -> tuple[tuple[str, str], list[int]]:
    packed = offset_stream.pack(node.weight, taps, schedule.chunk, schedule.groups)
    table = np.zeros(
        (len(packed.segments), len(packed.segments[0])),
        [("rows", "<i8"), ("entries", "<i8"), ("row_count", "<i4"), ("unused", "<i4")],
    )
    bounds = [0]
    for group, chunks in enumerate(packed.segments):
        for chunk, (rows, entries) in enumerate(chunks):
            table[group, chunk] = (file.add(rows), file.add(entries), len(rows) - 2, 0)
        bounds.append(bounds[-1] + len(chunks[0][0]) - 2)
    constants["int CHUNKS"] = str(table.shape[1])
    constants["long SEGMENTS"] = str(file.add(table))
    return ("OffsetStream", "group"), bounds


def _pack_dense(
    node: Conv, schedule: Schedule, taps: Taps, constants: dict[str, str], file: WeightFile
) -> tuple[tuple[str, str], list[int]]:
    packed = dense.pack(node.weight, taps, schedule.block)
    total = packed.offsets.size
    constants["int BLOCK"] = str(schedule.block)
    constants["int TAPS"] = str(total)
    constants["int CHUNK_TAPS"] = str(min(total, schedule.chunk * (total // taps.channels)))
    constants["long OFFSETS"] = str(file.add(packed.offsets))
    constants["long MATRIX"] = str(file.add(packed.matrix))
    blocks = len(packed.matrix)
    bounds = [
        min(len(node.weight), blocks * part // schedule.groups * schedule.block) for part in range(schedule.groups + 1)
    ]
    return ("Dense", "S::BOUNDS[group], S::BOUNDS[group + 1]"), bounds


def _pool(plan: Plan, step: Compute, node: Pool) -> _Piece:
    assert step.window is not None
    window, source, target = step.window, plan.tensors[step.inputs[0]], plan.tensors[node.output]
    offsets = [
        r * window.dilation[0] * source.row_stride + s * window.dilation[1] * source.vector
        for r in range(node.kernel[0])
        for s in range(node.kernel[1])
    ]
    constants = _row_constants(target) | {
        "bool MAXIMUM": "true" if node.maximum else "false",
        "float FACTOR": _literal(1.0 / len(offsets)),
        "int TAPS": str(len(offsets)),
        f"long OFFSET[{len(offsets)}]": "{" + ", ".join(map(str, offsets)) + "}",
        "long X_ROW": str(window.stride[0] * source.row_stride),
        "long X_COLUMN": str(window.stride[1] * source.vector),
        "long X_CHANNEL": str(source.channel_stride),
    }
    origin = _origin(plan, step.inputs[0], -window.padding[0], -window.padding[1])
    call = f"pool_row<S>(arena + {origin}, arena + {_origin(plan, node.output)}, row, channel)"
    return _per_row(plan, node.output, constants, call, f"{node.output}: {'max' if node.maximum else 'average'} pool")


def _add(plan: Plan, step: Compute, node: Add) -> _Piece:
    left, target = plan.tensors[step.inputs[0]], plan.tensors[node.output]
    right = plan.tensors[step.inputs[1]] if len(step.inputs) > 1 else None
    constants = _row_constants(target) | {
        "bool BINARY": "true" if right else "false",
        "long A_ROW": str(left.row_stride),
        "long A_CHANNEL": str(left.channel_stride),
        "long B_ROW": str(right.row_stride if right else 0),
        "long B_CHANNEL": str(right.channel_stride if right else 0),
        "Activation ACTIVATION": node.activation.upper(),
    }
    second = f"arena + {_origin(plan, step.inputs[1])}" if right else "nullptr"
    first, result = _origin(plan, step.inputs[0]), _origin(plan, node.output)
    call = f"add_row<S>(arena + {first}, {second}, arena + {result}, row, channel)"
    return _per_row(plan, node.output, constants, call, f"{node.output}: {' + '.join(step.inputs)}")


def _row_constants(target: Placement) -> dict[str, str]:
    return {
        "int COLUMNS": str(target.geometry.columns),
        "long Y_ROW": str(target.row_stride),
        "long Y_CHANNEL": str(target.channel_stride),
    }


def _per_row(plan: Plan, output: str, constants: dict[str, str], call: str, comment: str) -> _Piece:
    """A step without weights: one task per row and run of 32 channels."""
    target = plan.tensors[output]
    runs = -(-target.channels // 32)
    body = (
        f"      const int row = task / {runs}, low = task % {runs} * 32;\n"
        f"      const int high = low + 32 < {target.channels} ? low + 32 : {target.channels};\n"
        f"      for (int channel = low; channel < high; channel++) {call};\n"
        + _exchange(plan, output, "row, row + 1", "low, high")
    )
    return _Piece(constants, str(target.geometry.rows * runs), body, comment)


def _mean(plan: Plan, step: Compute, file: WeightFile) -> _Piece:
    source, target = plan.tensors[step.inputs[0]], plan.tensors[step.node.output]
    geometry = source.geometry
    constants = {
        "int ROWS": str(geometry.rows),
        "int COLUMNS": str(geometry.columns),
        "int IMAGES": str(geometry.images),
        "int LANES_PER_IMAGE": str(geometry.lane_rows * geometry.lane_columns),
        "float FACTOR": _literal(float(np.float32(1.0 / (geometry.height * geometry.width)))),
        "long X_ROW": str(source.row_stride),
        "long X_CHANNEL": str(source.channel_stride),
        "long Y_CHANNEL": str(target.channel_stride),
        "long INSIDE": str(file.add(inside_masks(source))),
    }
    body = (
        f"      for (int channel = task * 16; channel < {source.channels} && channel < task * 16 + 16; channel++)\n"
        f"        mean_channel<S>(arena + {_origin(plan, step.inputs[0])}, arena + {_origin(plan, step.node.output)},\n"
        "            reinterpret_cast<const int32_t*>(weights + S::INSIDE), channel);\n"
        + _exchange(
            plan,
            step.node.output,
            "0, 1",
            f"task * 16, (task < {source.channels // 16} ? task * 16 + 16 : {source.channels})",
        )
    )
    return _Piece(constants, str(-(-source.channels // 16)), body, f"{step.node.output}: mean")
