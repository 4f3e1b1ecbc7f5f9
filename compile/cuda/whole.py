"""The last word on what was chosen layer by layer: whole networks as CUDA graphs, measured in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from compile.cuda.choice import Choice
from compile.cuda.tune import spread
from compile.cuda.tuning_cache import Timing
from runtime.cuda.replay import Replay, replay_us

DENSE_NETWORK = "dense"
_ROUNDS = 21
_SHARES = {"chosen": 1.0, "half of chosen": 0.5}

Choices = dict[str, Choice]


def versions(choices: Choices) -> dict[str, Choices]:
    """Nested subsets of the sparse choices by name: none, all, and those that save most."""
    found = {
        DENSE_NETWORK: {
            name: c if c.is_dense else c.as_dense("dense by the whole network") for name, c in choices.items()
        }
    }
    sparse = sorted(
        (name for name, choice in choices.items() if not choice.is_dense), key=lambda n: -_saved(choices[n])
    )
    for title, share in _SHARES.items():
        kept = set(sparse[: round(len(sparse) * share)])
        if kept and (share == 1.0 or len(kept) < len(sparse)):
            found[title] = {name: c if name in kept else found[DENSE_NETWORK][name] for name, c in choices.items()}
    return found


def _saved(choice: Choice) -> float:
    if choice.dense_us is None or choice.chosen_us is None:
        return 0.0
    return choice.dense_us - choice.chosen_us


def measure(networks: Mapping[str, Callable[[Tensor], object]], inputs: Tensor) -> dict[str, Timing]:
    """The time of each network for a batch that lies on the GPU, each one CUDA graph, in turns."""
    replays = {name: Replay(network, inputs) for name, network in networks.items()}
    samples: dict[str, list[float]] = {name: [] for name in replays}
    for number in range(_ROUNDS):
        order = list(replays) if number % 2 == 0 else list(replays)[::-1]
        times = replay_us([replays[order[0]].replay, *(replays[name].replay for name in order)])[1:]
        for name, us in zip(order, times, strict=True):
            samples[name].append(us)
    torch.cuda.synchronize()
    return {name: spread(found) for name, found in samples.items()}


def fastest(timings: Mapping[str, Timing], base: str = DENSE_NETWORK) -> str:
    """The network with the shortest time; ``base`` unless it is beaten by more than the noise of both."""
    best = min(timings, key=lambda name: timings[name].us)
    noise = max(timings[best].noise_us, timings[base].noise_us)
    return best if timings[best].us < timings[base].us - noise else base
