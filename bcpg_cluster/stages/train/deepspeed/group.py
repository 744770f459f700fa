"""The process group of the trainer's ranks: meeting, agreeing, and telling a lost peer from a bug."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch

from bcpg_cluster.cluster.node_address import announce, is_loopback, listen_at
from bcpg_cluster.errors import BcpgError, EngineError, MemberLostError
from bcpg_cluster.stages.train.deepspeed.config import has_gpu, prepare_environment

_HELD_BY_AGENT = "TORCHELASTIC_USE_AGENT_STORE"
_SIGNS_OF_A_LOST_PEER = ("gloo", "nccl", "timed out", "timeout", "connection", "store")


class TrainerGroup:
    """One rank's membership. :meth:`join` meets the others at ``master_addr:master_port``, rank 0's machine.

    Args:
        local_rank: which of this machine's *visible* GPUs is this rank's; 0 where a launcher shows each rank its own.
        timeout_s: how long one collective may take before a missing peer is an error.

    Attributes:
        rank, world_size: as given.
        device: where this rank computes; known once it has joined.
    """

    device: torch.device

    def __init__(
        self, rank: int, world_size: int, master_addr: str, master_port: int, local_rank: int, timeout_s: float
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size}")
        self.rank, self.world_size, self._local_rank = rank, world_size, local_rank
        self._master = (master_addr, master_port)
        self._timeout = timedelta(seconds=timeout_s)
        self._is_joined = False
        self._store: Any = None  # rank 0's: it serves for as long as it lives

    def join(self) -> None:
        """Meet the other ranks; nothing happens when this rank has joined already."""
        if self._is_joined:
            return
        prepare_environment()
        os.environ.update(
            RANK=str(self.rank),
            WORLD_SIZE=str(self.world_size),
            LOCAL_RANK=str(self._local_rank),
            MASTER_ADDR=self._master[0],
            MASTER_PORT=str(self._master[1]),
        )
        import deepspeed

        _take_as_default(self._timeout)
        if has_gpu():
            torch.cuda.set_device(self._local_rank)
            self.device = torch.device("cuda", self._local_rank)
        else:
            self.device = torch.device("cpu")
            # DeepSpeed compiles this op for two minutes on a machine's first start. Only its inference all-reduce uses
            # it, and it spins on shared memory without a deadline.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        with self.collective("joining the trainer group"), self._met_at_own_address():
            deepspeed.init_distributed(
                dist_backend="nccl" if has_gpu() else "gloo",
                auto_mpi_discovery=False,
                timeout=self._timeout,
                verbose=False,
            )
            self._is_joined = True

    @contextmanager
    def _met_at_own_address(self) -> Iterator[None]:
        """While the group is made: its store listens at the master's address alone. Left to itself PyTorch opens one on every
        interface of rank 0's machine; it joins one that is there when told that an agent holds it, as under torchrun.
        """
        host, port = self._master
        if is_loopback(host):  # all ranks are on this machine
            announce(host)
        if self.rank == 0:
            listening = listen_at(host, port).detach()
            self._store = torch.distributed.TCPStore(  # type: ignore[attr-defined]
                host, port, is_master=True, wait_for_workers=False, timeout=self._timeout, master_listen_fd=listening
            )
        os.environ[_HELD_BY_AGENT] = "True"
        try:
            yield
        finally:
            del os.environ[_HELD_BY_AGENT]

    def leave(self) -> None:
        """Leave the group; nothing happens outside one."""
        if not self._is_joined:
            return
        self._is_joined = False
        import deepspeed.comm

        deepspeed.comm.destroy_process_group()
        self._store = None

    @contextmanager
    def collective(self, doing: str) -> Iterator[None]:
        """Turn a transport's error into ours: a peer that died or stalled shows up as one in every other rank.

        Raises:
            MemberLostError: the transport failed.
            EngineError: anything else did.
        """
        try:
            yield
        except BcpgError:
            raise
        except (RuntimeError, OSError, torch.distributed.DistError) as error:
            text = str(error).lower()
            if any(sign in text for sign in _SIGNS_OF_A_LOST_PEER):
                raise MemberLostError(f"trainer rank {self.rank}, {doing}: {error}") from error
            raise EngineError(f"trainer rank {self.rank}, {doing}: {error!r}") from error

    def barrier(self) -> None:
        """Wait for all ranks."""
        torch.distributed.barrier()

    def gather(self, content: Any) -> list[Any]:
        """Every rank's ``content`` on every rank, by rank."""
        found: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(found, content)
        return found

    def agree(self, content: Any) -> Any:
        """Rank 0's ``content`` on every rank."""
        box = [content]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def raise_alike(self, problem: Exception | None) -> None:
        """What one rank could not do is every rank's error."""
        for found in self.gather(problem):
            if found is not None:
                raise found


def _take_as_default(timeout: timedelta) -> None:
    """Have every group of this process use the timeout. DeepSpeed makes more of them, by a ``new_group`` that takes none; they
    get torch's default of 10 (NCCL) or 30 minutes, which nothing public changes.
    """
    from torch.distributed import distributed_c10d

    for name in ("default_pg_timeout", "default_pg_nccl_timeout"):
        setattr(distributed_c10d, name, timeout)
