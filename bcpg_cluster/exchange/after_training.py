"""What the weights that a round trained make of the responses it trained on: p of every token after training.

A run does not store this: it would cost one more pass over all data. Whoever looks at one sample pays for that sample alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import RunDirectoryError
from bcpg_cluster.run.build.settings import train_settings
from bcpg_cluster.store.fetched import local_copy
from bcpg_cluster.store.manifest import ManifestState
from bcpg_cluster.store.path import RunPath

if TYPE_CHECKING:
    from bcpg_cluster.stages.train.loading.policy import Policy

MOST_BYTES = 4 * 2**30  # of weight files that a look at one sample loads; bfloat16 takes twice as much in memory


class TrainedWeights:
    """Scores responses with the weights of one version after the other, in this process and on its CPU."""

    def __init__(self, run_dir: RunPath, config: Config) -> None:
        self._run_dir, self._config = run_dir, config
        self._settings = replace(  # nothing is trained here: no adapters, no recomputation, no GPU's kernels
            train_settings(config, 1), lora=None, gradient_checkpointing=False, attention="auto", packing="padded"
        )
        self._policy: Policy | None = None
        self._loaded = ""

    def logprobs(
        self, state: ManifestState, version: int, prompt_ids: Sequence[int], token_ids: Sequence[int]
    ) -> tuple[float, ...]:
        """Log-probs [T] of the response's tokens, nats, at temperature 1.

        Args:
            state: the run as its manifest says now.
            version: of the weights; round n trains version n.

        Raises:
            RunDirectoryError: the version is not trained yet, its files were deleted, or it is too large to load here.
        """
        import torch

        from bcpg_cluster.stages.train.forward import score_sequences

        place = self._place(state, version)
        if self._policy is None or self._loaded != place:
            self._policy, self._loaded = self._load(place), place
        pair = (tuple(prompt_ids), tuple(token_ids))
        return score_sequences(self._policy, [pair], self._settings, torch.device("cpu"))[0]

    def _place(self, state: ManifestState, version: int) -> str:
        record = state.snapshots.get(version)
        if version > 0 and record is None:
            raise RunDirectoryError(
                f"round {version} has not trained yet",
                rule="p after training is that of the weights a round made",
                remedy="wait until it has trained",
            )
        if record is None or not record.path:
            return resolve_asset(self._config.policy.model)
        if not (self._run_dir / record.path).is_dir():
            raise RunDirectoryError(
                f"the weights of version {version} were deleted ({record.path})",
                rule=f"a run keeps its newest {self._config.snapshots.keep_last} snapshots and the best one",
                remedy="look at a newer round, or keep more of them in the next run (snapshots.keep_last)",
            )
        return local_copy(self._run_dir / record.path)

    def _load(self, place: str) -> Policy:
        import torch

        from bcpg_cluster.stages.train.loading.whole_model import load_policy

        if not Path(place).is_dir():  # the base, which lies on the hub
            raise RunDirectoryError(
                f"this round changed no weights, and {place} is not on this machine",
                rule="p after training is worked out from weights that are here",
                remedy="look at p when sampled: no weight has changed since",
            )
        num_bytes = sum(file.stat().st_size for file in Path(place).glob("*.safetensors"))
        if num_bytes > MOST_BYTES:
            raise RunDirectoryError(
                f"{place} has {num_bytes / 2**30:.1f} GiB of weights",
                rule=f"p after training is worked out on this machine's CPU, for weights up to {MOST_BYTES >> 30} GiB",
                remedy="look at what the run stores: p when sampled, and the drift of the trainer's reference",
            )
        policy: Policy = load_policy(place, self._settings, torch.float32).eval()
        return policy
