"""The reference trainer: one process, plain torch, readable from top to bottom. Other trainers must agree with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from bcpg_cluster.cluster.liveness.rank_progress import ProgressReporter
from bcpg_cluster.errors import ConfigError, EngineError, PushError
from bcpg_cluster.records import StepCheckpoint
from bcpg_cluster.stages.push.adapters.merge import merged
from bcpg_cluster.stages.push.adapters.versions import Carried
from bcpg_cluster.stages.push.digest import tensor_digest
from bcpg_cluster.stages.push.protocol import PushGroup, SnapshotDigests, TensorSpec
from bcpg_cluster.stages.push.snapshot import write_snapshot
from bcpg_cluster.stages.push.wire import specs_of
from bcpg_cluster.stages.train.batching import split_rows
from bcpg_cluster.stages.train.checkpoint_source import local_checkpoint
from bcpg_cluster.stages.train.forward import (
    check_finite,
    check_packing,
    drift_sums,
    dropout_seed,
    loss_part_names,
    mean_drift,
    micro_batch_loss,
    needs_drift,
    policy_dtype,
    reference_of_rows,
    score_sequences,
)
from bcpg_cluster.stages.train.loading.policy import Policy
from bcpg_cluster.stages.train.loading.whole_model import load_policy
from bcpg_cluster.stages.train.lora import adapter_matrices
from bcpg_cluster.stages.train.protocol import ReferenceLogprobs, StepReport, TrainRow, TrainSettings
from bcpg_cluster.stages.train.step_checkpoints.kept import KeptCheckpoints
from bcpg_cluster.stages.train.step_checkpoints.record import (
    CheckpointFile,
    CheckpointRecord,
    checkpoint_name,
    keep_only,
    open_checkpoint,
    write_record,
)
from bcpg_cluster.stages.train.step_checkpoints.writing import save_digested, unwritten
from bcpg_cluster.stages.train.step_plan import TrainingPlan, lay_out_training, row_size, should_stop
from bcpg_cluster.stages.train.telemetry import StepSums

_STATE = "state.pt"  # of a step checkpoint


class TorchTrainer:
    """A :class:`~bcpg_cluster.stages.train.protocol.TrainerRank` of world size 1.

    Parameters stay in float32; with ``dtype="bfloat16"`` the forward runs under autocast.

    Args:
        wire_dtype: what pushes send matrices in (``stages.push.wire``).
    """

    def __init__(self, device: str | None = None, *, wire_dtype: str = "float32") -> None:
        self._wire_dtype = wire_dtype
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._policy: Policy | None = None
        self._sender: Any = None
        self._kept = KeptCheckpoints()
        self.reports: list[StepReport] = []
        self.progress = ProgressReporter()

    def open(self, model_path: str, settings: TrainSettings) -> None:
        """Load the round's start weights and make a fresh optimiser."""
        if settings.deepspeed:
            raise ConfigError(
                "train.deepspeed is set",
                rule="the one-process trainer has no DeepSpeed",
                remedy="use the deepspeed trainer, or leave train.deepspeed out",
            )
        self._policy = None  # freed before the next one is loaded
        self._kept = KeptCheckpoints()  # the last round's must not be taken for this one's
        self._autocast = policy_dtype(settings) is torch.bfloat16
        model_path = local_checkpoint(model_path, settings.revision)
        self._policy = load_policy(model_path, settings, torch.float32).to(self._device)
        self._optimizer = torch.optim.AdamW(
            self._policy.trained_parameters(),
            lr=settings.learning_rate,
            betas=settings.adam_betas,
            weight_decay=settings.weight_decay,
        )
        self._settings = settings
        self._model_path = model_path

    def reference_logprobs(self, rows: Sequence[TrainRow]) -> dict[int, ReferenceLogprobs]:
        """lp_ref of all rows, by row index."""
        settings = self._settings
        sizes = [row_size(row) for row in rows]
        (micro_batches,) = split_rows(sizes, range(len(rows)), settings.micro_batch_tokens, 1, settings.packing)
        with self._forward_dtype():
            pieces = self.progress.each("reference micro-batch", micro_batches)
            return reference_of_rows(self._opened(), rows, pieces, settings, self._device)

    def train(
        self, rows: Sequence[TrainRow], checkpoint_dir: str | None, resume: StepCheckpoint | None = None
    ) -> list[StepReport]:
        """Run the step plan over ``rows``, from ``resume`` on; see ``TrainSettings`` for its early stop."""
        settings = self._settings
        plan = lay_out_training(rows, settings, 1, self._model_path)
        part_names = loss_part_names(settings.objective)
        with self._forward_dtype():
            check_packing(self._opened(), rows, settings, self._device)
        self.reports = reports = self._resume(plan, checkpoint_dir, resume)
        while len(reports) < len(plan.steps) and not should_stop(reports, settings):
            reports.append(self._train_step(len(reports), plan, rows, part_names))
            every = settings.checkpoint_every_steps
            if checkpoint_dir and every and len(reports) % every == 0:
                self._write_checkpoint(plan, reports, checkpoint_dir)
        return reports

    def _train_step(
        self, step: int, plan: TrainingPlan, rows: Sequence[TrainRow], part_names: Sequence[str]
    ) -> StepReport:
        policy, settings = self._opened(), self._settings
        step_plan, rate = plan.steps[step], plan.rates[step]
        (micro_batches,) = step_plan.ranks
        which = f"{step + 1} of {len(plan.steps)}"
        sums = StepSums(part_names, self._device)
        self._optimizer.zero_grad(set_to_none=True)
        with self._forward_dtype():
            drift = 0.0
            if needs_drift(settings.objective):
                pieces = self.progress.each("drift micro-batch", micro_batches, f" in step {which}")
                drift = mean_drift(drift_sums(policy, rows, pieces, settings, self._device))
        with policy.dropout(dropout_seed(settings, step, rank=0)):
            for micro_batch in self.progress.each("micro-batch", micro_batches, f" in step {which}"):
                with self._forward_dtype():
                    chosen = [rows[row] for row in micro_batch]
                    loss = micro_batch_loss(policy, chosen, settings, sums, self._device, drift)
                (loss / step_plan.divisor).backward()  # type: ignore[no-untyped-call]
        self.progress.begin("optimiser step", which, is_even=True)
        grad_norm = self._clip_gradients()
        check_finite(step, sums.loss, grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        return sums.report(
            step=step,
            num_steps=len(plan.steps),
            num_sequences=step_plan.num_rows * settings.objective.sequences_per_row,
            divisor=step_plan.divisor,
            grad_norm=grad_norm,
            rate=rate,
        )

    def newest_checkpoint(self) -> StepCheckpoint | None:
        """The newest step checkpoint, which stays on disk until two more were asked for."""
        return self._kept.tell()

    def save_snapshot(self, path: str) -> SnapshotDigests | None:
        """Write a Hugging Face checkpoint directory; returns its digests."""
        specs = specs_of(self._opened().checkpoint_parameters(), "float32")
        return write_snapshot(path, self._model_path, specs, self._parameters(), wire_dtype=self._wire_dtype)

    def join_push_group(self, group: PushGroup) -> None:
        """Meet the receivers as rank 0 of the push group."""
        from bcpg_cluster.stages.push.vllm_sender import WeightSender  # vendor code, wanted only where pushes happen

        self.leave_push_group()
        sender = WeightSender()
        sender.join(group)
        self._sender = sender

    def adapter_digests(self) -> dict[str, str] | None:
        """sha256 of every matrix of the present adapters, by name."""
        return {name: tensor_digest(tensor) for name, tensor in self._adapters()}

    def push_weights(self, carried: Carried = "weights") -> list[TensorSpec]:
        """Send all parameters, or the adapters alone, in the order of :meth:`push_specs`."""
        if self._sender is None:
            raise PushError("no push group has been joined")
        specs = self.push_specs(carried)
        tensors = self._adapters() if carried == "adapters" else self._parameters()
        self._sender.send((spec, tensor) for spec, (_, tensor) in zip(specs, tensors, strict=True))
        return specs

    def push_specs(self, carried: Carried = "weights") -> list[TensorSpec]:
        """What :meth:`push_weights` will send."""
        policy = self._opened()
        if carried == "adapters":  # in float32 whatever matrices are sent in: engines merge them before they round
            return specs_of(adapter_matrices(policy.adapters), "float32")
        return specs_of(policy.checkpoint_parameters(), self._wire_dtype)

    def leave_push_group(self) -> None:
        """Drop the push group; nothing happens when there is none."""
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.leave()

    def score_tokens(self, sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[tuple[float, ...]]:
        """Log-probs in nats of given responses under the present weights."""
        with self._forward_dtype():
            return score_sequences(self._opened(), sequences, self._settings, self._device)

    def close(self) -> None:
        """Free everything."""
        self.leave_push_group()
        self._policy = None
        self._optimizer = None  # type: ignore[assignment]

    def _opened(self) -> Policy:
        if self._policy is None:
            raise RuntimeError("open() comes first")
        return self._policy

    def _forward_dtype(self) -> AbstractContextManager[object]:
        return torch.autocast(self._device.type, dtype=torch.bfloat16) if self._autocast else nullcontext()

    def _parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """All weights as they leave the trainer, adapters merged in."""
        adapters = self._opened().adapters
        for name, parameter in self._opened().checkpoint_parameters():
            self.progress.begin("parameter", name)
            adapter = adapters.get(name)
            if adapter is None:
                yield name, parameter.data
            else:
                yield name, merged(parameter.data, adapter.down.data, adapter.up.data, adapter.scaling)

    def _adapters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The adapters' matrices as they leave the trainer."""
        return ((name, matrix.data) for name, matrix in adapter_matrices(self._opened().adapters))

    def _clip_gradients(self) -> float:
        """Scale the gradient down to the clip norm (0 clips nothing); returns the norm before."""
        clip = self._settings.grad_clip or float("inf")
        return float(torch.nn.utils.clip_grad_norm_(self._opened().trained_parameters(), clip))

    def _write_checkpoint(self, plan: TrainingPlan, reports: Sequence[StepReport], checkpoint_dir: str) -> None:
        """The state, then the record of it; an older checkpoint goes when this one is whole."""
        self.progress.begin("step checkpoint", f"after step {len(reports)}", is_even=True)
        directory = Path(checkpoint_dir, checkpoint_name(len(reports)))
        try:
            directory.mkdir(parents=True, exist_ok=True)
            content = {"policy": self._opened().state_dict(), "optimizer": self._optimizer.state_dict()}
            files = {_STATE: CheckpointFile(save_digested(content, directory / _STATE))}
            checkpoint = write_record(directory, CheckpointRecord(plan.fingerprint, tuple(reports), files))
        except OSError as error:
            raise unwritten(directory, error) from error
        keep_only(Path(checkpoint_dir), self._kept.add(checkpoint))

    def _resume(
        self, plan: TrainingPlan, checkpoint_dir: str | None, resume: StepCheckpoint | None
    ) -> list[StepReport]:
        """Load a checked step checkpoint, if it is of this very training; the reports of the steps that are done."""
        if checkpoint_dir is None:
            return []
        place = Path(checkpoint_dir)
        record = open_checkpoint(place, resume, plan.fingerprint) if resume else None
        self._kept.begin(place, resume if record else None)
        if record is None or resume is None:
            return []
        self.progress.begin("loading a step checkpoint", checkpoint_name(resume.num_steps))
        state = place / checkpoint_name(resume.num_steps) / _STATE
        try:
            content = torch.load(state, map_location=self._device, weights_only=True)
            self._opened().load_state_dict(content["policy"])
            self._optimizer.load_state_dict(content["optimizer"])
        except (OSError, RuntimeError, KeyError, ValueError, UnpicklingError) as error:
            raise EngineError(f"step checkpoint {state} could not be loaded: {error!r}") from error
        return [*record.reports]
