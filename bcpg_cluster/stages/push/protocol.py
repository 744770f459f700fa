"""What a push asks of its two sides: who meets where, what is sent, who receives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from bcpg_cluster.stages.push.adapters.versions import AdapterPush


@dataclass(frozen=True, slots=True)
class PushGroup:
    """Where a weight-transfer group meets. Rank 0 is the trainer's; receivers have ranks 1..world_size-1.

    Attributes:
        host, port: of the rendezvous, on rank 0's machine.
        backend: a name known to vLLM's weight-transfer factory (``gloo`` is ours; ``nccl`` is vLLM's).
    """

    host: str
    port: int
    world_size: int
    backend: str


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One parameter on the wire: its name in the Hugging Face checkpoint, its dtype there (``float32``) and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SnapshotDigests:
    """What is known of a snapshot's parameters, by name.

    Attributes:
        stored: sha256 hex of each as it was written (``stages.push.digest``); none of the base model.
        wire: digests of each as a push sends it (``stages.push.wire``), taken from the very tensors that were written. None in
            snapshots made before they were noted; those weights are not sent, but loaded from disk.
    """

    stored: Mapping[str, str]
    wire: Mapping[str, str]


class WeightReceiver(Protocol):
    """A generator whose weights can be replaced while it lives. Calls come in this order, with no work in flight:
    ``join_push_group`` once per group, then for each push ``receive_weights`` or ``receive_adapters``; or ``load_snapshot``
    alone.
    """

    def join_push_group(self, group: PushGroup, rank: int) -> None:
        """Meet the sender; blocks until all ranks are there (the caller holds the deadline). An engine of several parts takes as
        many ranks, from ``rank`` on.
        """
        ...

    def receive_weights(self, specs: Sequence[TensorSpec], version: int) -> dict[str, str]:
        """Take all parameters of one push, put them in force, reset the prefix cache, set ``policy_version``.

        Returns:
            The wire digest of every parameter as it arrived (``stages.push.wire.wire_digest``), by name.

        Raises:
            PushError: the prefix cache could not be reset, or a parameter does not fit.
        """
        ...

    def adapter_start(self) -> str | None:
        """``weights_id`` of the weights that adapters would be merged into: those that answer now. ``None`` where they cannot be
        merged, since the checkpoint under them is gone, or there is none.
        """
        ...

    def receive_adapters(self, specs: Sequence[TensorSpec], adapters: AdapterPush, version: int) -> dict[str, str]:
        """Take the adapters of one push, merge them into the weights that answer now, then as :meth:`receive_weights`.

        Returns:
            sha256 hex digest of every matrix as it arrived, by name.

        Raises:
            PushError: the weights that answer now are others than ``adapters.start``, and as for :meth:`receive_weights`.
        """
        ...

    def leave_push_group(self) -> None:
        """Drop the group (it will be re-made). Safe to call when there is none."""
        ...

    def load_snapshot(self, path: str, version: int) -> dict[str, str]:
        """Put the weights of a checkpoint directory in force: how a restarted engine catches up.

        Returns:
            sha256 hex digest of every parameter as it was read, by name.
        """
        ...

    def score_tokens(self, sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[tuple[float, ...]]:
        """Log-probs in nats of given responses, one per response token, for (prompt ids, response ids) pairs."""
        ...

    def score_next(self, prefix: tuple[int, ...], token: int) -> float:
        """Log-prob in nats of one given token after ``prefix``, computed through the prefix cache as decoding does."""
        ...
