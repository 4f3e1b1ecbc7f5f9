"""Which format a layer gets: by measurement, by the cost model, by the whole network; and what the cache remembers."""

from __future__ import annotations

import msgspec
import pytest
import torch
from fakes import FakeStopwatch, KeptColumns
from families import NETWORKS
from support import capture_module, prune_randomly
from torch import nn

from compile.cuda import cost_model, tuning_cache, whole
from compile.cuda.candidates import Offer, offer, variants
from compile.cuda.choice import Candidate, Choice, place
from compile.cuda.choose import by_measurement, by_model
from compile.cuda.network import GpuNetwork
from compile.cuda.problem import ConvProblem
from compile.cuda.sites import Site, sites
from compile.cuda.tune import measure_all, spread
from compile.cuda.tuning_cache import Timing
from compile.from_torch import read_graph
from compile.passes.simplify import simplify

PROBLEM = ConvProblem(2, 8, 6, 6, 16, (3, 3), (1, 1), (1, 1), activation="relu", dtype="float32")


def site(density: float = 0.3, seed: int = 0, layer: str = "a", **changes: object) -> Site:
    problem = msgspec.structs.replace(PROBLEM, **changes)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(problem.weight_shape, generator=generator)
    weight *= torch.rand(problem.weight_shape, generator=generator) < density
    return Site(layer, layer, weight, torch.randn(problem.outputs, generator=generator), problem)


def test_a_format_without_the_epilogue_is_offered_the_bare_layer(kept_columns: KeptColumns) -> None:
    offered = offer(site(residual=True), most=4)
    assert [c.problem.residual for c in offered.candidates["kept_columns"]] == [False, False]
    assert offered.candidates["kept_columns"][0].problem.activation == "identity"
    assert offered.candidates["dense"][0].problem.residual
    assert offered.refusals == {}
    assert offer(site(0.9), most=4).refusals == {"kept_columns": "no epilogue"}
    assert len(offer(site(), most=1).candidates["kept_columns"]) == 1


def test_a_layer_does_itself_what_its_op_leaves_out(kept_columns: KeptColumns) -> None:
    for problem in variants(msgspec.structs.replace(PROBLEM, residual=True)):
        assert problem.residual or problem.activation == "identity"  # no activation before the sum
    layer = site(residual=True)
    x, residual = torch.randn(PROBLEM.input_shape), torch.randn(PROBLEM.output_shape)
    results = [place(layer, found[0])(x, residual) for found in offer(layer, most=1).candidates.values()]
    assert len(results) == 2
    assert torch.allclose(results[0], results[1], atol=1e-5)
    assert (results[0] >= 0).all()


def timing(dense: float, sparse: float, noise: float = 0.1) -> FakeStopwatch:
    return FakeStopwatch(
        lambda _, c: Timing(
            (sparse if c.format == "kept_columns" else dense) + 0.01 * sum(msgspec.to_builtins(c.config).values()),
            noise,
        )
    )


@pytest.mark.parametrize(
    ("dense", "sparse", "chosen"), [(5.0, 4.0, "kept_columns"), (5.0, 4.95, "dense"), (5.0, 6.0, "dense")]
)
def test_a_sparse_kernel_has_to_win_by_more_than_the_noise(
    kept_columns: KeptColumns, dense: float, sparse: float, chosen: str
) -> None:
    layer = site()
    offered = offer(layer, most=4)
    timings = measure_all({"a": layer}, {"a": offered}, timing(dense, sparse), lambda _: None)["a"]
    choice = by_measurement(offered, timings)
    assert choice.candidate.format == chosen
    assert choice.dense_us == pytest.approx(dense)
    assert choice.chosen_us == pytest.approx(sparse + 0.01 if chosen != "dense" else dense)
    assert "measured" in choice.reason
    assert "noise 0.10" in choice.reason


def test_layers_that_are_alike_are_measured_once_and_remembered(kept_columns: KeptColumns) -> None:
    layers = {
        "a": site(layer="a"), "b": site(layer="b"), "wide": site(layer="wide", outputs=32),
        "dense": site(0.9, layer="dense"), "other": site(0.05, layer="other"),
    }  # fmt: skip
    offers = {name: offer(layer, most=4) for name, layer in layers.items()}
    watch = timing(5.0, 4.0)
    found = measure_all(layers, offers, watch, lambda _: None)
    assert watch.asked == ["a", "wide", "dense", "other"]
    assert found["a"] == found["b"]
    again = timing(1.0, 9.0)
    assert measure_all(layers, offers, again, lambda _: None) == found
    assert again.asked == []
    tuning_cache.cache_file().write_text("damaged")
    measure_all({"a": layers["a"]}, offers, again, lambda _: None)
    assert again.asked == ["a"]


def test_another_kernel_text_or_machine_is_measured_again(
    kept_columns: KeptColumns, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = site()
    offered = offer(layer, most=4)
    before = tuning_cache.key(layer.problem, offered)
    monkeypatch.setattr(tuning_cache, "source_digest", lambda name: name + "changed")
    changed = tuning_cache.key(layer.problem, offered)
    monkeypatch.setattr(tuning_cache.gpu, "name", lambda: "another GPU")
    assert len({before, changed, tuning_cache.key(layer.problem, offered)}) == 3


def test_noise_is_half_of_what_the_middle_of_the_samples_spans() -> None:
    assert spread([5.0, 1.0, 2.0, 3.0, 4.0, 100.0, 2.5, 3.5]) == Timing(3.5, 0.75)


def test_the_model_prefers_dense_where_it_is_not_worth_it(kept_columns: KeptColumns) -> None:
    small = site(0.5)
    choice = by_model(small, offer(small, most=4), "sm_90")
    assert choice.is_dense
    assert "cost model, nothing was measured" in choice.reason
    assert choice.dense_us is None
    large = site(0.001, batch=64, channels=512, outputs=512, height=14, width=14)
    offered = offer(large, most=4)
    assert by_model(large, offered, "sm_90").candidate.format == "kept_columns"
    assert by_model(large, offered, "sm_90").candidate.config == kept_columns.Config(1)


def test_the_roofline_of_a_layer_by_hand() -> None:
    problem = ConvProblem(32, 512, 7, 7, 512, (3, 3), (1, 1), (1, 1), residual=True)
    rates = cost_model.RATES["sm_90"]
    macs = 32 * 49 * 512 * 512 * 9
    assert problem.macs == macs
    assert cost_model.layer_us("dense", problem, macs, "sm_90") == pytest.approx(
        macs / rates.tensor_macs_per_us + rates.launch_us
    )
    # 32 maps in, and twice as many out and added, and the weights, two bytes each
    moved = 2 * (3 * 32 * 49 * 512 + 512 * 512 * 9)
    assert cost_model.traffic(problem, macs) == moved
    assert cost_model.layer_us("dense", problem, 0, "sm_90") == pytest.approx(
        (moved - 2 * 512 * 512 * 9) / rates.bytes_per_us + rates.launch_us
    )


def test_subsets_of_the_sparse_layers_are_nested_and_begin_with_what_saves_most(kept_columns: KeptColumns) -> None:
    dense = Candidate("dense", None, PROBLEM)
    sparse = Candidate("kept_columns", None, PROBLEM)
    saved = {"a": 1.0, "b": 5.0, "c": 3.0, "d": 2.0}
    choices = {n: Choice(sparse, "why", dense, 10.0, 10.0 - s, 7) for n, s in saved.items()}
    choices["e"] = Choice(dense, "why", dense, 10.0, 10.0)
    found = whole.versions(choices)
    kept = {title: {n for n, c in version.items() if not c.is_dense} for title, version in found.items()}
    assert kept == {"dense": set(), "chosen": set("abcd"), "half of chosen": {"b", "c"}}
    assert found["dense"]["b"].chosen_us == 10.0
    assert found["dense"]["b"].macs_usable is None
    assert "whole network" in found["dense"]["b"].reason
    assert list(whole.versions({"e": choices["e"]})) == ["dense"]


@pytest.mark.parametrize(
    ("chosen", "half", "best"), [(90.0, 95.0, "chosen"), (99.5, 99.8, "dense"), (95.0, 90.0, "half of chosen")]
)
def test_the_whole_network_has_the_last_word(chosen: float, half: float, best: str) -> None:
    timings = {"dense": Timing(100.0, 1.0), "chosen": Timing(chosen, 0.2), "half of chosen": Timing(half, 0.2)}
    assert whole.fastest(timings) == best


def forced(module: nn.Module, shape: tuple[int, int, int], batch: int) -> tuple[GpuNetwork, int]:
    """Every layer that the test's format takes is in it."""
    graph = simplify(read_graph(capture_module(module, shape, batch)))
    layers, count = {}, 0
    for name, found in sites(graph, batch, "float32").items():
        offered: Offer = offer(found, most=1)
        kind = "kept_columns" if "kept_columns" in offered.candidates else "dense"
        count += kind == "kept_columns"
        layers[name] = place(found, offered.candidates[kind][0])
    with torch.no_grad():
        size = tuple(module(torch.zeros(batch, *shape)).shape)
    return GpuNetwork(graph, layers, "float32", (size,)), count


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vgg11_bn", "densenet"])
def test_a_network_of_forced_formats_agrees_with_torch(name: str, kept_columns: KeptColumns) -> None:
    torch.manual_seed(0)
    make, side = NETWORKS[name]
    module = prune_randomly(make(), 0.3).eval()
    network, count = forced(module, (3, side, side), 2)
    assert count > 5
    inputs = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected, result = module(inputs), network(inputs)
    assert float((result - expected).abs().max() / expected.abs().max()) < 1e-5
