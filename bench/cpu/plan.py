"""Who takes part in the CPU engine's benchmark, and under which conditions.

Artifacts lie in ``ARTIFACTS/WEIGHTS/...``. ``native`` runs all weights. The others compute every zero, so they run the
dense ones alone, and ONNX Runtime once more the weights ``PROOF``, to show that it is so. OpenVINO takes the model file
of the onnxruntime artifact, and both run it in less than float32 too (``bench.cpu.yardsticks``). Whoever takes part is
told by weights, engine and dtype: ``native`` may have artifacts of several.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.cpu.yardsticks import OPENVINO, as_openvino, below_float32
from bench.environment import usable_cpus
from bench.measure.participant import Condition, Entry
from bench.measure.session import Plan, built_for, find_artifacts
from bench.naming import FLOAT, NATIVE
from runtime.data import load_evaluation_set
from runtime.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from bench.measurement import ArtifactRecord, Settings

CONDITIONS = ((1, 1), (1, 2), (16, 2))
"""Batch size and threads."""
DENSE = "dense"
BASE = "onnxruntime"
YARDSTICK = OPENVINO
PROOF = "st3_90"


def plan_cpu(artifacts: Path, evaluation: Path, settings: Settings) -> tuple[Plan, dict[str, Entry]]:
    """Find the artifacts and put them into their conditions.

    Returns:
        The plan, and by the name of the weights the onnxruntime artifact of batch 1 that says what is right.

    Raises:
        UserError: there is no evaluation set, no dense ONNX Runtime artifact, or weights without a reference.
    """
    load_evaluation_set(evaluation, verify=True)
    found, refusals = find_artifacts([artifacts])
    references = {weights_of(entry.record): entry for entry in built_for(found, 1) if is_base(entry.record)}
    for weights in dict.fromkeys([DENSE, *(weights_of(entry.record) for entry in found)]):
        if weights not in references:
            raise UserError(
                f"{artifacts} holds no {BASE} artifact of the weights {weights!r} for batch 1, which is the reference; "
                f"make it: st3 compile CHECKPOINTS/{weights} --backend {BASE} --out {artifacts}"
            )
    models = [entry for entry in found if entry.record.engine == BASE and weights_of(entry.record) == DENSE]
    everybody = [*found, *map(as_openvino, models)]
    for model in models:
        entries, reasons = below_float32(model)
        everybody += entries
        refusals += [reason for reason in reasons if reason not in refusals]
    cpus = usable_cpus()
    conditions = []
    for batch_size, threads in CONDITIONS:
        if threads <= len(cpus):
            here = tuple(entry for entry in built_for(everybody, batch_size) if takes_part(entry, batch_size, threads))
            condition = Condition(batch_size, threads, cpus[:threads], str(evaluation.resolve()), whole_set=False)
            conditions.append((condition, here))
    timed = {entry.record.digest: entry for _, entries in conditions for entry in entries}
    return Plan(tuple(timed.values()), tuple(refusals), evaluation.resolve(), tuple(conditions), settings), references


def is_base(record: ArtifactRecord) -> bool:
    """Whether it is ONNX Runtime in float32: its answers are right, and with dense weights it is what ratios are to."""
    return record.engine == BASE and record.target.dtype == FLOAT


def takes_part(entry: Entry, batch_size: int, threads: int) -> bool:
    """Whether an entry is timed under a condition."""
    weights, engine = weights_of(entry.record), entry.record.engine
    is_proof = is_base(entry.record) and weights == PROOF and (batch_size, threads) == CONDITIONS[0]
    return engine == NATIVE or weights == DENSE or is_proof


def weights_of(record: ArtifactRecord) -> str:
    """``st3_90`` of the artifact ``st3_90/native-b1``: the name of its checkpoint."""
    return record.name.partition("/")[0]


def find(entries: Iterable[Entry], weights: str, engine: str, batch_size: int) -> list[Entry]:
    """The artifacts of some weights for an engine and a batch size: one for each precision."""
    return [
        entry
        for entry in built_for(entries, batch_size)
        if (weights_of(entry.record), entry.record.engine) == (weights, engine)
    ]
