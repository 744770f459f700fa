"""What a run asks of a member of the rollout pool, typed: control calls on its engine, answered while it works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from bcpg_cluster.cluster.runtime import Member
from bcpg_cluster.errors import EngineError
from bcpg_cluster.stages.push.adapters.versions import AdapterPush
from bcpg_cluster.stages.push.arrivals import arrival_faults
from bcpg_cluster.stages.push.protocol import PushGroup, TensorSpec
from bcpg_cluster.store.path import RunPath


class RolloutClient:
    """The calls of a :class:`~bcpg_cluster.stages.generate.protocol.RolloutEngine`, on a member that hosts one.

    A path in an object store is fetched by the member first.
    """

    def __init__(self, member: Member) -> None:
        self.member = member

    @property
    def name(self) -> str:
        """The member's."""
        return self.member.name

    def _call(self, method: str, *args: Any, label: str = "") -> Future[Any]:
        return self.member.call("engine_call", method, *args, control=True, label=label)

    def policy_version(self) -> Future[int]:
        """The version of the weights it answers with."""
        return self._call("policy_version")

    def max_model_len(self) -> Future[int | None]:
        """Most tokens it takes of a prompt and its response together; ``None`` is no limit."""
        return self._call("max_model_len")

    def load_snapshot(
        self, path: str | RunPath, version: int, digests: Mapping[str, str], *, label: str = ""
    ) -> Future[dict[str, str]]:
        """Have it load weights from disk and call them ``version``. Fails with an EngineError when it read something else than
        ``digests`` say (none: the base model, of which nothing is known).
        """
        load: Future[dict[str, str]] = self._call("load_snapshot", path, version, label=label)
        return _compared(load, f"{self.name} loaded {path}", digests) if digests else load

    def score_tokens(
        self, sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
    ) -> Future[list[tuple[float, ...]]]:
        """Log-probs in nats of given responses, each with its prompt."""
        return self._call("score_tokens", sequences)

    def score_next(self, prefix: tuple[int, ...], token: int) -> Future[float]:
        """Log-prob in nats of one token, decoded after ``prefix``: through the prefix cache."""
        return self._call("score_next", prefix, token)

    def join_push_group(self, group: PushGroup, rank: int) -> Future[None]:
        """Meet the sender; its first part takes ``rank``."""
        return self._call("join_push_group", group, rank)

    def receive_weights(self, specs: Sequence[TensorSpec], version: int) -> Future[dict[str, str]]:
        """Take a push; the digests of what arrived, by parameter."""
        return self._call("receive_weights", specs, version, label=f"receive v{version}")

    def adapter_start(self) -> Future[str | None]:
        """``weights_id`` of what adapters would be merged into; ``None`` where they cannot be."""
        return self._call("adapter_start")

    def receive_adapters(
        self, specs: Sequence[TensorSpec], adapters: AdapterPush, version: int
    ) -> Future[dict[str, str]]:
        """Take a push of adapters; the digests of what arrived, by matrix."""
        return self._call("receive_adapters", specs, adapters, version, label=f"receive adapters v{version}")

    def leave_push_group(self) -> Future[None]:
        """Drop the push group."""
        return self._call("leave_push_group")


def _compared(load: Future[dict[str, str]], what: str, digests: Mapping[str, str]) -> Future[dict[str, str]]:
    """The same load, which fails when other weights were read."""
    compared: Future[dict[str, str]] = Future()

    def compare(ended: Future[dict[str, str]]) -> None:
        error = ended.exception()
        if error is None and (faults := arrival_faults(digests, ended.result())):
            error = EngineError(f"{what}: {faults}")
        if error is None:
            compared.set_result(ended.result())
        else:
            compared.set_exception(error)

    load.add_done_callback(compare)
    return compared
