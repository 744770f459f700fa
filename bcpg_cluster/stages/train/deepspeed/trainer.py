"""The data-parallel trainer: one rank of a DeepSpeed ZeRO group.

Every rank makes the same calls in the same order. What one rank alone decides (rank 0's disk, rank 0's push group) it
finishes or fails *after* the others had their part of the collectives, so that a failure is an error, not a hang.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from bcpg_cluster.cluster.liveness.rank_progress import ProgressReporter
from bcpg_cluster.errors import EngineError, PushError
from bcpg_cluster.records import StepCheckpoint
from bcpg_cluster.stages.push.adapters.versions import Carried
from bcpg_cluster.stages.push.digest import tensor_digest
from bcpg_cluster.stages.push.protocol import PushGroup, SnapshotDigests, TensorSpec
from bcpg_cluster.stages.push.snapshot import write_snapshot
from bcpg_cluster.stages.train.batching import split_rows
from bcpg_cluster.stages.train.checkpoint_source import local_checkpoint
from bcpg_cluster.stages.train.deepspeed.checkpoint_files import CheckedFiles
from bcpg_cluster.stages.train.deepspeed.config import (
    check_deepspeed_config,
    deepspeed_config,
    has_gpu,
)
from bcpg_cluster.stages.train.deepspeed.gathered import GatheredWeights
from bcpg_cluster.stages.train.deepspeed.group import TrainerGroup
from bcpg_cluster.stages.train.deepspeed.partitioned import load_rank_policy
from bcpg_cluster.stages.train.forward import (
    check_finite,
    check_packing,
    drift_sums,
    dropout_seed,
    loss_part_names,
    mean_drift,
    micro_batch_loss,
    needs_drift,
    reference_of_rows,
    score_sequences,
)
from bcpg_cluster.stages.train.protocol import ReferenceLogprobs, StepReport, TrainRow, TrainSettings
from bcpg_cluster.stages.train.step_checkpoints.kept import KeptCheckpoints
from bcpg_cluster.stages.train.step_checkpoints.record import (
    RECORD,
    CheckpointRecord,
    checkpoint_name,
    keep_only,
    open_checkpoint,
    write_record,
)
from bcpg_cluster.stages.train.step_checkpoints.writing import unwritten
from bcpg_cluster.stages.train.step_plan import TrainingPlan, lay_out_training, row_size, should_stop
from bcpg_cluster.stages.train.telemetry import StepSums


class DeepSpeedRank:
    """One rank of a trainer group; a :class:`~bcpg_cluster.stages.train.protocol.TrainerRank`.

    The first :meth:`open` meets the other ranks at ``master_addr:master_port`` (rank 0's machine), :meth:`close` leaves
    them; after it the object may be opened again, and another group may be made in the same process.

    Args:
        local_rank: which of this machine's *visible* GPUs is this rank's; 0 where a launcher shows each rank its own.
        timeout_s: how long one collective may take before a missing peer is an error.
        wire_dtype: what pushes send matrices in (``stages.push.wire``).
    """

    def __init__(
        self,
        rank: int,
        world_size: int,
        master_addr: str,
        master_port: int,
        local_rank: int = 0,
        timeout_s: float = 600.0,
        wire_dtype: str = "float32",
    ) -> None:
        self._group = TrainerGroup(rank, world_size, master_addr, master_port, local_rank, timeout_s)
        self._rank, self._world_size, self._wire_dtype = rank, world_size, wire_dtype
        self._engine: Any = None
        self._sender: Any = None
        self._kept = KeptCheckpoints()
        self.reports: list[StepReport] = []
        self.progress = ProgressReporter()

    # --- a round -------------------------------------------------------------------------------------------------

    def open(self, model_path: str, settings: TrainSettings) -> None:
        """Load the round's start weights into a new engine with a fresh optimiser; the old engine is freed first."""
        check_deepspeed_config(settings.deepspeed, settings.zero_stage, settings.dtype)
        self.progress.begin("meeting the other ranks")
        self._group.join()
        self.progress.begin("loading the start weights")
        self._free()
        self._kept = KeptCheckpoints()  # the last round's must not be taken for this one's
        import deepspeed

        model_path = local_checkpoint(model_path, settings.revision)
        policy = load_rank_policy(model_path, settings, self._group, self.progress)
        self.progress.begin("building the engine")
        with self._group.collective("building the engine"):
            # Before the engine: it reads files, and an engine that is there has weights.
            weights = GatheredWeights(policy, model_path, settings, self._group, self.progress)
            self._engine, *_ = deepspeed.initialize(
                model=policy,
                model_parameters=policy.trained_parameters(),
                config=deepspeed_config(settings),
                dist_init_required=False,
            )
            self._policy, self._weights, self._settings, self._model_path = policy, weights, settings, model_path
            self._files = self._engine.checkpoint_engine = CheckedFiles(self._rank, self._engine.checkpoint_engine)
            self._weights.restore_masters()

    def _free(self) -> None:
        if self._engine is None:
            return
        self._engine.destroy()
        self._engine = None
        del self._policy, self._weights
        gc.collect()  # hooks tie engine and parameters into cycles
        if has_gpu():
            torch.cuda.empty_cache()

    def reference_logprobs(self, rows: Sequence[TrainRow]) -> dict[int, ReferenceLogprobs]:
        """lp_ref of this rank's share of the rows, by row index."""
        engine, settings = self._opened(), self._settings
        sizes = [row_size(row) for row in rows]
        shares = split_rows(sizes, range(len(rows)), settings.micro_batch_tokens, self._world_size, settings.packing)
        with self._group.collective("computing reference log-probs"):
            pieces = self.progress.each("reference micro-batch", shares[self._rank])
            return reference_of_rows(engine, rows, pieces, settings, self._group.device)

    def train(
        self, rows: Sequence[TrainRow], checkpoint_dir: str | None, resume: StepCheckpoint | None = None
    ) -> list[StepReport]:
        """Run the step plan over ``rows``, from ``resume`` on; see ``TrainSettings`` for its early stop."""
        settings = self._settings
        plan = lay_out_training(rows, settings, self._world_size, self._model_path)
        part_names = loss_part_names(settings.objective)
        with self._group.collective("training"):
            check_packing(self._opened(), rows, settings, self._group.device)
            self.reports = reports = self._resume(plan, checkpoint_dir, resume)
            # The reports are the same on all ranks, so all of them stop or none.
            while len(reports) < len(plan.steps) and not should_stop(reports, settings):
                reports.append(self._train_step(len(reports), plan, rows, part_names))
                every = settings.checkpoint_every_steps
                if checkpoint_dir and every and len(reports) % every == 0:
                    self._write_checkpoint(plan, reports, checkpoint_dir)
        return reports

    def _train_step(
        self, step: int, plan: TrainingPlan, rows: Sequence[TrainRow], part_names: Sequence[str]
    ) -> StepReport:
        engine, settings = self._opened(), self._settings
        step_plan, rate = plan.steps[step], plan.rates[step]
        micro_batches = step_plan.ranks[self._rank]
        which = f"{step + 1} of {len(plan.steps)}"
        sums = StepSums(part_names, self._group.device)
        drift = self._step_drift(rows, micro_batches, which)
        with self._policy.dropout(dropout_seed(settings, step, self._rank)):
            for number, micro_batch in enumerate(self.progress.each("micro-batch", micro_batches, f" in step {which}")):
                # Before the forward: ZeRO's hooks read it during the backward.
                engine.set_gradient_accumulation_boundary(number == len(micro_batches) - 1)
                chosen = [rows[row] for row in micro_batch]
                loss = micro_batch_loss(engine, chosen, settings, sums, self._group.device, drift)
                # DeepSpeed averages gradients over ranks; times world_size makes that the sum over all ranks' rows.
                loss = loss * (self._world_size / step_plan.divisor)
                engine.backward(loss, scale_wrt_gas=False)
        self.progress.begin("optimiser step", which, is_even=True)
        torch.distributed.all_reduce(sums.values)
        # All ranks see the same sums and norm, so all of them stop or none.
        check_finite(step, sums.loss)
        grad_norm = self._plain_grad_norm() if settings.zero_stage == 0 else None
        check_finite(step, 0.0, grad_norm)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate
        engine.step()
        if grad_norm is None:
            # ZeRO checks the norm before it touches a parameter, and skips the step when it is not finite.
            grad_norm = float(engine.get_global_grad_norm())
            check_finite(step, 0.0, grad_norm if engine.was_step_applied() else float("nan"))
        return sums.report(
            step=step,
            num_steps=len(plan.steps),
            num_sequences=step_plan.num_rows * settings.objective.sequences_per_row,
            divisor=step_plan.divisor,
            grad_norm=grad_norm,
            rate=rate,
        )

    def _step_drift(self, rows: Sequence[TrainRow], micro_batches: Sequence[Sequence[int]], which: str) -> float:
        """Mean Delta of the step's mismatched responses over all ranks; 0 where the objective has no use for it."""
        if not needs_drift(self._settings.objective):
            return 0.0
        pieces = self.progress.each("drift micro-batch", micro_batches, f" in step {which}")
        sums = drift_sums(self._opened(), rows, pieces, self._settings, self._group.device)
        torch.distributed.all_reduce(sums)
        return mean_drift(sums)

    def _plain_grad_norm(self) -> float:
        """The norm under ZeRO 0, where gradients are whole on every rank and DeepSpeed reports none."""
        gradients = [parameter.grad for parameter in self._policy.parameters() if parameter.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    # --- step checkpoints ----------------------------------------------------------------------------------------

    def newest_checkpoint(self) -> StepCheckpoint | None:
        """The newest step checkpoint, which stays on disk until two more were asked for."""
        return self._kept.tell()

    def _write_checkpoint(self, plan: TrainingPlan, reports: Sequence[StepReport], checkpoint_dir: str) -> None:
        """Every rank writes its shard, then the record of all files is written; older checkpoints go last.

        Where the ranks' machines keep their own checkpoints, each has the record too.
        """
        self.progress.begin("step checkpoint", f"after step {len(reports)}", is_even=True)
        place = Path(checkpoint_dir)
        directory = place / checkpoint_name(len(reports))
        self._files.begin()
        # Frozen weights are on disk already, as the start weights.
        self._opened().save_checkpoint(
            str(place), tag=directory.name, save_latest=False, exclude_frozen_parameters=True
        )
        self._group.raise_alike(self._files.problem)
        files = {name: file for of_rank in self._group.gather(self._files.files) for name, file in of_rank.items()}
        checkpoint, problem = None, None
        try:
            if self._rank == 0 or not (directory / RECORD).is_file():
                checkpoint = write_record(directory, CheckpointRecord(plan.fingerprint, tuple(reports), files))
        except OSError as error:
            problem = unwritten(directory, error)
        self._group.raise_alike(problem)
        keep = self._kept.add(checkpoint) if self._rank == 0 and checkpoint is not None else None
        keep_only(place, self._group.agree(keep))
        self._group.barrier()  # the record stands before any rank continues

    def _resume(
        self, plan: TrainingPlan, checkpoint_dir: str | None, resume: StepCheckpoint | None
    ) -> list[StepReport]:
        """Load a checked step checkpoint, if it is of this very training; the reports of the steps that are done."""
        if checkpoint_dir is None:
            return []
        place = Path(checkpoint_dir)
        # Every rank reads its copy of the same record (its digest says so), so all of them resume or none.
        record = open_checkpoint(place, resume, plan.fingerprint) if resume else None
        self._group.barrier()  # all have read theirs before any of it is removed
        self._kept.begin(place, resume if record else None)
        self._group.barrier()  # what was removed is gone before a rank writes
        if record is None or resume is None:
            return []
        name = checkpoint_name(resume.num_steps)
        self.progress.begin("loading a step checkpoint", name)
        is_whole = not self._policy.adapters
        try:
            loaded, _ = self._opened().load_checkpoint(checkpoint_dir, tag=name, load_module_strict=is_whole)
        except (OSError, AssertionError, KeyError, ValueError, UnpicklingError) as error:
            raise EngineError(f"step checkpoint {place / name} could not be loaded: {error!r}") from error
        if loaded is None:
            raise EngineError(f"step checkpoint {place / name} could not be loaded")
        return [*record.reports]

    # --- weights out ---------------------------------------------------------------------------------------------

    def save_snapshot(self, path: str) -> SnapshotDigests | None:
        """Write a Hugging Face checkpoint directory on rank 0; its digests there, ``None`` elsewhere."""
        self._opened()
        digests = None
        specs = self._weights.specs("weights", "float32")
        with self._group.collective("gathering a snapshot"), self._weights.each() as parameters:
            if self._rank == 0:
                digests = write_snapshot(path, self._model_path, specs, parameters, wire_dtype=self._wire_dtype)
        return digests

    def join_push_group(self, group: PushGroup) -> None:
        """Meet the receivers as rank 0 of the push group; other trainer ranks return at once."""
        self.leave_push_group()
        if self._rank == 0:
            # Vendor code, wanted only where pushes happen.
            from bcpg_cluster.stages.push.vllm_sender import WeightSender

            sender = WeightSender()
            sender.join(group)
            self._sender = sender

    def adapter_digests(self) -> dict[str, str] | None:
        """sha256 of every matrix of the present adapters on rank 0, by name; ``None`` elsewhere."""
        with self._group.collective("gathering adapters"), self._weights.each("adapters") as matrices:
            return {name: tensor_digest(matrix) for name, matrix in matrices} if self._rank == 0 else None

    def push_weights(self, carried: Carried = "weights") -> list[TensorSpec]:
        """Send all parameters, or the adapters alone, in the order of :meth:`push_specs`; every rank takes part in gathering."""
        specs = self.push_specs(carried)
        with self._group.collective("gathering a push"), self._weights.each(carried) as parameters:
            if self._rank == 0:
                if self._sender is None:
                    raise PushError("no push group has been joined")
                self._sender.send((spec, tensor) for spec, (_, tensor) in zip(specs, parameters, strict=True))
        return specs

    def push_specs(self, carried: Carried = "weights") -> list[TensorSpec]:
        """What :meth:`push_weights` will send, in order; nothing is gathered."""
        self._opened()
        return self._weights.specs(carried, self._wire_dtype)

    def leave_push_group(self) -> None:
        """Drop the push group; nothing happens when there is none."""
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.leave()

    def score_tokens(self, sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[tuple[float, ...]]:
        """Log-probs in nats of given responses under the present weights; every rank computes all of them."""
        engine = self._opened()
        with self._group.collective("scoring"):
            return score_sequences(engine, sequences, self._settings, self._group.device)

    def close(self) -> None:
        """Free everything and leave the training group."""
        self.leave_push_group()
        self._free()
        self._group.leave()

    def _opened(self) -> Any:
        if self._engine is None:
            raise RuntimeError("open() comes first")
        return self._engine
