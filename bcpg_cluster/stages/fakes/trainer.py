"""A trainer rank that raises its policy's skill instead of computing gradients."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Sequence
from pathlib import Path

from bcpg_cluster.cluster.liveness.rank_progress import ProgressReporter
from bcpg_cluster.errors import EngineError, PushError
from bcpg_cluster.records import StepCheckpoint
from bcpg_cluster.stages.fakes.faults import Faults, _CallCounter
from bcpg_cluster.stages.fakes.skill import (
    SKILL_SPEC,
    SNAPSHOT_FILE,
    fake_logprobs,
    read_skill,
    skill_digests,
    skill_wire_digests,
)
from bcpg_cluster.stages.push.adapters.versions import Carried
from bcpg_cluster.stages.push.protocol import PushGroup, SnapshotDigests, TensorSpec
from bcpg_cluster.stages.train.protocol import ReferenceLogprobs, StepReport, TrainRow, TrainSettings


class FakeTrainerRank:
    """A :class:`~bcpg_cluster.stages.train.protocol.TrainerRank` that does no maths: training just raises the skill.

    Args:
        skill: of the base model, when the model directory is not a snapshot of a fake.
        gain: how much of ``1 - skill`` one call of :meth:`train` with any row closes.
    """

    def __init__(
        self, rank: int = 0, world_size: int = 1, *, skill: float = 0.6, gain: float = 0.3, faults: Faults = Faults()
    ) -> None:
        self._rank = rank
        self._world_size = world_size
        self.skill = self._base_skill = skill
        self._gain = gain
        self._settings: TrainSettings | None = None
        self.reports: list[StepReport] = []
        self.progress = ProgressReporter()
        self._calls = _CallCounter(faults)
        self._listener: socket.socket | None = None
        self._receivers: list[socket.socket] = []

    def open(self, model_path: str, settings: TrainSettings) -> None:
        """Take the skill of the snapshot, or the base model's, whatever was trained before."""
        found = read_skill(model_path)
        self.skill = self._base_skill if found is None else found
        self._settings = settings

    def reference_logprobs(self, rows: Sequence[TrainRow]) -> dict[int, ReferenceLogprobs]:
        """Of every ``world_size``-th row."""
        with self._calls.call(1):
            return {
                index: ReferenceLogprobs(
                    fake_logprobs(self.skill, len(row.prompt_token_ids), row.token_ids),
                    fake_logprobs(self.skill, len(row.prompt_token_ids), row.rival_token_ids),
                )
                for index, row in enumerate(rows)
                if index % self._world_size == self._rank
            }

    def train(
        self, rows: Sequence[TrainRow], checkpoint_dir: str | None, resume: StepCheckpoint | None = None
    ) -> list[StepReport]:
        """One report a batch; the skill grows once, if there is a row at all."""
        if self._settings is None:
            raise EngineError("train before open")
        with self._calls.call(1):
            settings = self._settings
            size = max(1, settings.batch_sequences // settings.objective.sequences_per_row)
            starts = [*range(0, len(rows), size)] * settings.epochs
            if rows:
                self.skill += self._gain * (1.0 - self.skill)
            self.reports = [
                self._report(step, len(starts), rows[start : start + size], settings)
                for step, start in enumerate(starts)
            ]
            return self.reports

    def _report(self, step: int, num_steps: int, batch: Sequence[TrainRow], settings: TrainSettings) -> StepReport:
        """A step that moved nothing: the drift is 0 for every class of tokens that is there at all."""
        is_pair = settings.objective.rows == "pairs"
        wrong = [token for row in batch if row.reward <= 0.5 for token in row.mined]
        unmined = wrong.count(False) + sum(len(row.rival_token_ids) for row in batch if is_pair)
        tokens = {
            "right": sum(len(row.token_ids) for row in batch if row.reward > 0.5),
            "wrong": wrong.count(True) + unmined,
            "mined": wrong.count(True),
            "unmined": unmined,
        }
        drift = {f"delta_per_token_{name}": 0.0 if number else None for name, number in tokens.items()}
        return StepReport(
            step=step,
            num_steps=num_steps,
            loss=1.0 - self.skill,
            loss_parts={"skill": 1.0 - self.skill},
            grad_norm=1.0,
            learning_rate=settings.learning_rate,
            **drift,
            clipped_up=None,
            clipped_down=None,
            entropy=1.0 - self.skill,
            positive_mass=None,
            num_sequences=len(batch) * settings.objective.sequences_per_row,
            num_tokens=tokens["right"] + tokens["wrong"],
        )

    def newest_checkpoint(self) -> StepCheckpoint | None:
        """None: a training of a fake is over at once."""
        return None

    def save_snapshot(self, path: str) -> SnapshotDigests | None:
        """Write the skill as JSON (rank 0)."""
        if self._rank != 0:
            return None
        directory = Path(path)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / SNAPSHOT_FILE).write_text(json.dumps({"skill": self.skill}))
        return SnapshotDigests(skill_digests(self.skill), skill_wire_digests(self.skill))

    def join_push_group(self, group: PushGroup) -> None:
        """Listen until all receivers are connected (rank 0)."""
        self.leave_push_group()
        if self._rank != 0:
            return
        self._listener = socket.create_server((group.host, group.port))
        self._receivers = [self._listener.accept()[0] for _ in range(group.world_size - 1)]

    def adapter_digests(self) -> dict[str, str] | None:
        """None: a fake trains its skill whole."""
        return {} if self._rank == 0 else None

    def push_weights(self, carried: Carried = "weights") -> list[TensorSpec]:
        """Send the skill to all receivers (rank 0)."""
        if self._rank == 0 and self._listener is None:
            raise PushError("no push group: join one before sending weights")
        for receiver in self._receivers:
            receiver.sendall(struct.pack("<d", self.skill))
        return self.push_specs(carried)

    def push_specs(self, carried: Carried = "weights") -> list[TensorSpec]:
        """The skill is the only parameter."""
        return [SKILL_SPEC]

    def leave_push_group(self) -> None:
        """Close the sockets."""
        for wire in (*self._receivers, self._listener):
            if wire is not None:
                wire.close()
        self._receivers, self._listener = [], None

    def score_tokens(self, sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[tuple[float, ...]]:
        """As the generator of the same skill scores them."""
        return [fake_logprobs(self.skill, len(prompt), response) for prompt, response in sequences]

    def close(self) -> None:
        """Refuse further calls."""
        self.leave_push_group()
        self._calls.close()
