"""Many processes, one training: who this one is, and what it tells the others.

``torchrun --nproc-per-node N -m train ...`` starts N processes with one GPU each (or none). Each trains on its share
of every batch, gradients are averaged, and so weights and masks stay the same everywhere. Batch normalisation uses
the statistics of a process's own share; those of the first process are stored.
"""

from __future__ import annotations

import os
from typing import final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from runtime.errors import UserError


@final
class World:
    """This process among all; alone unless torchrun started it.

    Attributes:
        rank: number of this process; the first one writes all files.
        size: number of processes.
        local_rank: number of this process on its machine, and of its GPU.
        restarts: how often torchrun has started all processes anew after one had died.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, restarts: int = 0) -> None:
        self.rank, self.size, self.local_rank, self.restarts = rank, size, local_rank, restarts

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over all processes by its backward pass."""
        if self.size == 1:
            return model
        # each process computes the same thresholds from the same weights; sending them would hide a difference
        return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)

    def add_up(self, values: Tensor) -> None:
        """Replace ``values`` by their sums over all processes."""
        if self.size > 1:
            dist.all_reduce(values)

    def largest(self, values: Tensor) -> None:
        """Replace ``values`` by their maxima over all processes."""
        if self.size > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX)

    def copy_first(self, model: nn.Module) -> None:
        """Give every process the first one's weights and buffers."""
        if self.size > 1:
            for tensor in model.state_dict().values():
                plain = tensor.contiguous()  # a copy where the memory is NHWC
                dist.broadcast(plain, 0)
                tensor.copy_(plain)

    def agree_none(self, asked: bool, device: torch.device) -> bool:
        """Whether no process asks."""
        flag = torch.tensor(int(asked), device=device)
        self.largest(flag)
        return not int(flag)

    def agree(self, number: int, device: torch.device) -> bool:
        """Whether every process gave the same number."""
        bounds = torch.tensor([number, -number], device=device)
        self.largest(bounds)
        high, low = bounds.tolist()
        return bool(high == -low)


def join(cuda: bool) -> World:
    """Join the processes that torchrun started, by NCCL on GPUs and by gloo on CPUs; alone without torchrun.

    Raises:
        UserError: there are more processes on this machine than GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World(restarts=int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")))
    local = int(os.environ["LOCAL_RANK"])
    if cuda:
        if local >= torch.cuda.device_count():
            raise UserError(
                f"process {local} of this machine has no GPU, there are {torch.cuda.device_count()}; "
                f"start as many with --nproc-per-node, or use --device cpu"
            )
        torch.cuda.set_device(local)
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    store, rank, _ = next(rendezvous("env://"))
    # torchrun keeps one store for all attempts: without a prefix of its own, a process that was started again can read
    # the address under which its dead predecessor's neighbour listened, and wait for nobody
    dist.init_process_group(
        "nccl" if cuda else "gloo", store=PrefixStore(f"attempt {attempt}", store), rank=rank, world_size=size
    )
    return World(rank, size, local, attempt)


def leave() -> None:
    """Leave the processes, if there are several."""
    if dist.is_initialized():
        dist.destroy_process_group()
