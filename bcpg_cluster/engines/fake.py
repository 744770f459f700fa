"""Engines without engines: for users' own tests, and for running a whole cycle in a second.

Everything here is deterministic, in the standard library, and keeps its protocol's promises (ids, versions, digests,
log-probs that agree between sampling, scoring and the trainer's side). A "model" is one number, its *skill*: the chance
to get a step of the embedded task right. Training raises it, a snapshot is a JSON file that holds it, and a push sends
it over a socket, so that a full cycle on fakes visibly learns.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bcpg_cluster.assets.chain import ANSWER, MODULUS, REFLECTION, Chain, parse_question, step_truths
from bcpg_cluster.engines.protocols import (
    GenerateRequest,
    Generation,
    JudgeCase,
    Judgement,
    PushGroup,
    ReferenceLogprobs,
    StepReport,
    TensorSpec,
    TrainRow,
    TrainSettings,
)
from bcpg_cluster.errors import EngineError, PushError
from bcpg_cluster.records import ErrorType, StopReason, VerdictStatus

SNAPSHOT_FILE = "fake.json"
END_ID = 0  # the end token; any other id is a character's code point
SKILL_SPEC = TensorSpec("skill", "float64", ())

LATENCY = "BCPG_FAKE_LATENCY_S"

Answer = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, on purpose.

    Attributes:
        latency_s: every call takes at least this long.
        fail_on_call: the n-th call (from 1) raises EngineError, and only that one.
        output: every generation is ``garbage`` (characters of no format), ``empty`` (the end token alone), ``endless``
            (no end token before the limit) or ``aborted``.
    """

    latency_s: float = 0.0
    fail_on_call: int | None = None
    output: Literal["garbage", "empty", "endless", "aborted"] | None = None


def slowed(output: Literal["garbage", "empty", "endless", "aborted"] | None = None) -> Faults:
    """Faults with the latency that ``BCPG_FAKE_LATENCY_S`` says, so that a pool's ``env`` can make its fakes take time."""
    return Faults(latency_s=float(os.environ.get(LATENCY, "0")), output=output)


class _CallCounter:
    """Applies :class:`Faults` to calls, and counts the work for ``health``."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._lock = threading.Lock()
        self._num_calls = 0
        self._num_running = 0
        self._num_tokens = 0
        self._busy_s = 0.0
        self._is_closed = False

    @contextmanager
    def call(self, num_requests: int) -> Iterator[None]:
        begin = time.perf_counter()
        with self._lock:
            if self._is_closed:
                raise EngineError("the engine is closed")
            self._num_calls += 1
            self._num_running += num_requests
            is_failing = self._num_calls == self._faults.fail_on_call
        try:
            time.sleep(self._faults.latency_s)
            if is_failing:
                raise EngineError(f"call {self._faults.fail_on_call} fails, as it was told to")
            yield
        finally:
            with self._lock:
                self._num_running -= num_requests
                self._busy_s += time.perf_counter() - begin

    def count_tokens(self, num_tokens: int) -> None:
        with self._lock:
            self._num_tokens += num_tokens

    @property
    def num_running(self) -> int:
        return self._num_running

    def health(self) -> dict[str, float]:
        return {
            "alive": float(not self._is_closed),
            "requests_running": float(self._num_running),
            "requests_waiting": 0.0,
            "tokens_generated": float(self._num_tokens),
            "busy_s": self._busy_s,
        }

    def close(self) -> None:
        self._is_closed = True


def draw_solution(chain: Chain, skill: float, rng: random.Random) -> str:
    """A response to a chain: each line is right with chance ``skill``, a wrong one is noticed and redone with the same
    chance, and what is not noticed is built upon.
    """
    lines: list[str] = []
    value = chain.start
    for operation in chain.operations:
        right = operation.apply(value)
        result = right if rng.random() < skill else (right + rng.randint(1, MODULUS - 1)) % MODULUS
        work = f"{value}{operation.symbol}{operation.operand}="
        lines.append(f"{work}{result}")
        if result != right and rng.random() < skill:
            lines += [REFLECTION, f"{work}{right}"]
            result = right
        value = result
    return "\n".join([*lines, f"{ANSWER}{value}"])


class FakeGenerator:
    """A :class:`~bcpg_cluster.engines.protocols.RolloutEngine`: one token a character, no model.

    Args:
        skill: of the built-in chain solver.
        model: the name that stands for the base model where a snapshot's path is asked for.
        answer: prompt text to response text, instead of the solver: a scripted model. ``temperature`` and seeds
            then change nothing.
        snapshot: a :class:`FakeTrainerRank` snapshot to start from.
    """

    def __init__(
        self,
        *,
        skill: float = 0.6,
        model: str = "fake",
        answer: Answer | None = None,
        policy_version: int = 0,
        snapshot: str | None = None,
        seed: int = 0,
        faults: Faults = Faults(),
    ) -> None:
        self.skill = self._base_skill = skill
        self._model = model
        self._answer = answer
        self._version = policy_version
        self._rng = random.Random(seed)  # for requests without a seed of their own
        self._faults = faults
        self._calls = _CallCounter(faults)
        self._wire: socket.socket | None = None
        if snapshot is not None:
            self.load_snapshot(snapshot, policy_version)

    @property
    def policy_version(self) -> int:
        """The version of the skill that answers now."""
        return self._version

    def render(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        """The messages' contents, one a line; a character is its code point."""
        return encode("".join(f"{message['content']}\n" for message in messages))

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """Answer all requests, in order."""
        with self._calls.call(len(requests)):
            generations = [self._generate(request) for request in requests]
        self._calls.count_tokens(sum(len(generation.token_ids) for generation in generations))
        return generations

    def health(self) -> dict[str, float]:
        """The same numbers as a real engine gives."""
        return {**self._calls.health(), "policy_version": float(self._version)}

    def close(self) -> None:
        """Refuse further calls."""
        self.leave_push_group()
        self._calls.close()

    def join_push_group(self, group: PushGroup, rank: int) -> None:
        """Connect to the trainer's socket; blocks until it listens."""
        self.leave_push_group()
        while True:
            try:
                self._wire = socket.create_connection((group.host, group.port))
                return
            except ConnectionRefusedError:
                time.sleep(0.01)

    def receive_weights(self, specs: Sequence[TensorSpec], version: int) -> dict[str, str]:
        """Take the skill from the socket."""
        if self._wire is None:
            raise PushError("no push group: join one before receiving weights")
        if list(specs) != [SKILL_SPEC]:
            raise PushError(f"a fake receives {SKILL_SPEC}, not {list(specs)}")
        if self._calls.num_running:
            raise PushError(f"{self._calls.num_running} requests are under way: weights change only between them")
        data = self._wire.recv(8, socket.MSG_WAITALL)
        if len(data) != 8:
            raise PushError("the sender is gone")
        (self.skill,) = struct.unpack("<d", data)
        self._version = version
        return skill_digests(self.skill)

    def leave_push_group(self) -> None:
        """Close the socket."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def load_snapshot(self, path: str, version: int) -> None:
        """Take over the skill of a :class:`FakeTrainerRank` snapshot, or of the base model."""
        skill = self._base_skill if path == self._model else read_skill(path)
        if skill is None:
            raise PushError(f"no {SNAPSHOT_FILE} in {path}")
        self.skill, self._version = skill, version

    def score_tokens(self, sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[tuple[float, ...]]:
        """The same log-probs as :meth:`generate` reports and :class:`FakeTrainerRank` computes."""
        return [fake_logprobs(self.skill, len(prompt), response) for prompt, response in sequences]

    def score_next(self, prefix: tuple[int, ...], token: int) -> float:
        """As :meth:`score_tokens`, of one token."""
        return fake_logprobs(self.skill, len(prefix), (token,))[0]

    def _generate(self, request: GenerateRequest) -> Generation:
        rng = self._rng if request.seed is None else random.Random(request.seed)
        prompt = decode(request.prompt_token_ids)
        if request.sampling.temperature == 0.0:  # greedy depends on the prompt alone
            rng = random.Random(_hash_unit("greedy", prompt))
        token_ids = (*encode(self._text(prompt, rng, request.sampling.max_tokens)), END_ID)
        kept = token_ids[: request.sampling.max_tokens]
        stop = StopReason.STOP if kept[-1:] == (END_ID,) else StopReason.LENGTH
        if self._faults.output == "aborted":
            kept, stop = kept[:1], StopReason.ABORTED
        logprobs = fake_logprobs(self.skill, len(request.prompt_token_ids), kept)
        return Generation(kept, logprobs, tuple(map(decode_token, kept)), stop, self._version)

    def _text(self, prompt: str, rng: random.Random, max_tokens: int) -> str:
        if self._faults.output == "garbage":
            return "".join(rng.choice("#%&@!? ") for _ in range(20))
        if self._faults.output == "empty":
            return ""
        if self._faults.output == "endless":
            return "na " * max_tokens
        if self._answer is not None:
            return self._answer(prompt)
        for line in prompt.splitlines():
            try:
                return draw_solution(parse_question(line), self.skill, rng)
            except ValueError:
                continue
        return "?"


class FakeJudge:
    """A :class:`~bcpg_cluster.engines.protocols.Judge`: the truth with noise, the same noise for the same step.

    Args:
        recall: the chance that a right step is called right.
        precision: the chance that a step called right is right, where ``base_rate`` of the steps are right.
        truth: of every step of a case; the embedded task's by default.
        scores: say it as a score (0.9 and 0.1) instead of a label.
    """

    def __init__(
        self,
        name: str = "fake-judge",
        *,
        recall: float = 0.9,
        precision: float = 0.9,
        base_rate: float = 0.5,
        truth: Callable[[JudgeCase], Sequence[bool]] | None = None,
        scores: bool = False,
        faults: Faults = Faults(),
    ) -> None:
        self.name = name
        self._recall = recall
        # precision = recall b / (recall b + f (1 - b)), solved for f: the chance that a wrong step is called right.
        self._false_accept = recall * base_rate * (1 - precision) / (precision * (1 - base_rate))
        if self._false_accept > 1.0:
            raise ValueError(f"recall {recall} and precision {precision} are impossible at base rate {base_rate}")
        self._truth = truth or _chain_truth
        self._scores = scores
        self._faults = faults
        self._calls = _CallCounter(faults)

    @property
    def version(self) -> str:
        """Its name and noise."""
        return f"{self.name}/{self._recall}/{self._false_accept:.6g}"

    def judge(self, cases: Sequence[JudgeCase]) -> list[tuple[Judgement, ...]]:
        """Noisy verdicts; with ``Faults.output`` set every step comes back without one."""
        with self._calls.call(len(cases)):
            return [self._judge_case(case) for case in cases]

    def health(self) -> dict[str, float]:
        """The same numbers as a real judge gives."""
        return self._calls.health()

    def close(self) -> None:
        """Refuse further calls."""
        self._calls.close()

    def _judge_case(self, case: JudgeCase) -> tuple[Judgement, ...]:
        if self._faults.output is not None:
            is_lost = self._faults.output == "aborted"
            status = VerdictStatus.ENGINE_LOST if is_lost else VerdictStatus.UNPARSABLE
            return (Judgement(status),) * len(case.steps)
        try:
            truths = self._truth(case)
        except ValueError:
            return (Judgement(VerdictStatus.REFUSED),) * len(case.steps)
        return tuple(self._judge_step(case, index, is_right) for index, is_right in enumerate(truths))

    def _judge_step(self, case: JudgeCase, index: int, is_right: bool) -> Judgement:
        chance = self._recall if is_right else self._false_accept
        says_right = _hash_unit(self.name, case.problem, *case.steps[: index + 1]) < chance
        if self._scores:
            return Judgement(VerdictStatus.JUDGED, score=0.9 if says_right else 0.1)
        error_type = ErrorType.NONE if says_right else ErrorType.CALCULATION
        return Judgement(VerdictStatus.JUDGED, label=int(says_right), error_type=error_type)


class FakeTrainerRank:
    """A :class:`~bcpg_cluster.engines.protocols.TrainerRank` that does no maths: training just raises the skill.

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

    def train(self, rows: Sequence[TrainRow], checkpoint_dir: str | None) -> list[StepReport]:
        """One report a batch; the skill grows once, if there is a row at all."""
        if self._settings is None:
            raise EngineError("train before open")
        with self._calls.call(1):
            settings = self._settings
            size = max(1, settings.batch_sequences // settings.objective.sequences_per_row)
            batches = [rows[start : start + size] for start in range(0, len(rows), size)] * settings.epochs
            if rows:
                self.skill += self._gain * (1.0 - self.skill)
            self.reports = [self._report(step, len(batches), batch, settings) for step, batch in enumerate(batches)]
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

    def save_snapshot(self, path: str) -> dict[str, str] | None:
        """Write the skill as JSON (rank 0)."""
        if self._rank != 0:
            return None
        directory = Path(path)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / SNAPSHOT_FILE).write_text(json.dumps({"skill": self.skill}))
        return skill_digests(self.skill)

    def join_push_group(self, group: PushGroup) -> None:
        """Listen until all receivers are connected (rank 0)."""
        self.leave_push_group()
        if self._rank != 0:
            return
        self._listener = socket.create_server((group.host, group.port))
        self._receivers = [self._listener.accept()[0] for _ in range(group.world_size - 1)]

    def push_weights(self) -> list[TensorSpec]:
        """Send the skill to all receivers (rank 0)."""
        if self._rank == 0 and self._listener is None:
            raise PushError("no push group: join one before sending weights")
        for receiver in self._receivers:
            receiver.sendall(struct.pack("<d", self.skill))
        return self.push_specs()

    def push_specs(self) -> list[TensorSpec]:
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


# --- what fakes share -------------------------------------------------------------------------------------------------


def encode(text: str) -> tuple[int, ...]:
    """One token a character: its code point."""
    return tuple(map(ord, text))


def decode(token_ids: Sequence[int]) -> str:
    """The inverse of :func:`encode`; end tokens add nothing."""
    return "".join(map(decode_token, token_ids))


def decode_token(token_id: int) -> str:
    """What one token adds to the text."""
    return "" if token_id == END_ID else chr(token_id)


def fake_logprobs(skill: float, num_before: int, token_ids: Sequence[int]) -> tuple[float, ...]:
    """Log-probs that depend on skill, place and token, so that canaries tell one skill from another."""
    return tuple(
        -0.01 - (1.0 - skill) * _hash_unit("logprob", str(num_before + index), str(token_id))
        for index, token_id in enumerate(token_ids)
    )


def skill_digests(skill: float) -> dict[str, str]:
    """sha256 of the only parameter, by name."""
    return {SKILL_SPEC.name: hashlib.sha256(struct.pack("<d", skill)).hexdigest()}


def read_skill(path: str) -> float | None:
    """The skill of a snapshot directory; ``None`` when it is not one of a fake."""
    file = Path(path) / SNAPSHOT_FILE
    if not file.exists():
        return None
    skill = float(json.loads(file.read_text())["skill"])
    return skill if math.isfinite(skill) else None


def _chain_truth(case: JudgeCase) -> list[bool]:
    return [truth.is_correct for truth in step_truths(case.problem, case.steps)]


def _hash_unit(*parts: str) -> float:
    """A number in [0, 1) that depends on the parts alone: the same in every process, unlike ``hash``."""
    digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
