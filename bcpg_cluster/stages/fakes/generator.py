"""A rollout engine that answers from a skill instead of a model."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Callable, Sequence

from bcpg_cluster.assets.chain.task import parse_question
from bcpg_cluster.errors import EngineError, PushError
from bcpg_cluster.records import StopReason
from bcpg_cluster.stages.fakes.faults import Faults, _CallCounter
from bcpg_cluster.stages.fakes.skill import (
    END_ID,
    SKILL_SPEC,
    SNAPSHOT_FILE,
    decode,
    decode_token,
    draw_solution,
    encode,
    fake_entropies,
    fake_logprobs,
    hash_unit,
    read_skill,
    skill_digests,
    skill_wire_digests,
)
from bcpg_cluster.stages.generate.protocol import GenerateRequest, Generation
from bcpg_cluster.stages.push.adapters.versions import AdapterPush
from bcpg_cluster.stages.push.protocol import PushGroup, TensorSpec

Answer = Callable[[str], str]


class FakeGenerator:
    """A :class:`~bcpg_cluster.stages.generate.protocol.RolloutEngine`: one token a character, no model.

    Args:
        skill: of the built-in chain solver.
        model: the name that stands for the base model where a snapshot's path is asked for.
        answer: prompt text to response text, instead of the solver: a scripted model. ``temperature`` and seeds
            then change nothing.
        snapshot: a :class:`FakeTrainerRank` snapshot to start from.
        max_model_len: most tokens of a prompt and its response together; ``None`` is no limit. Refuses what a real engine does.
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
        max_model_len: int | None = None,
        faults: Faults = Faults(),
    ) -> None:
        self.skill = self._base_skill = skill
        self._model = model
        self._answer = answer
        self._version = policy_version
        self._max_model_len = max_model_len
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

    @property
    def max_model_len(self) -> int | None:
        """Most tokens of a prompt and its response together."""
        return self._max_model_len

    def render(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        """The messages' contents, one a line; a character is its code point."""
        return encode("".join(f"{message['content']}\n" for message in messages))

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """Answer all requests, in order."""
        with self._calls.call(len(requests), (decode(request.prompt_token_ids) for request in requests)):
            return [self._generate(request) for request in requests]

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
        return skill_wire_digests(self.skill)

    def adapter_start(self) -> str | None:
        """None: a skill has no adapters."""
        return None

    def receive_adapters(self, specs: Sequence[TensorSpec], adapters: AdapterPush, version: int) -> dict[str, str]:
        """Refused. Raises :class:`PushError`."""
        raise PushError("a fake takes no adapters")

    def leave_push_group(self) -> None:
        """Close the socket."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def load_snapshot(self, path: str, version: int) -> dict[str, str]:
        """Take over the skill of a :class:`FakeTrainerRank` snapshot, or of the base model."""
        skill = self._base_skill if path == self._model else read_skill(path)
        if skill is None:
            raise PushError(f"no {SNAPSHOT_FILE} in {path}")
        self.skill, self._version = skill, version
        return skill_digests(skill)

    def score_tokens(self, sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[tuple[float, ...]]:
        """The same log-probs as :meth:`generate` reports and :class:`FakeTrainerRank` computes."""
        for prompt, response in sequences:
            self._check_fits(len(prompt) + len(response))
        return [fake_logprobs(self.skill, len(prompt), response) for prompt, response in sequences]

    def score_next(self, prefix: tuple[int, ...], token: int) -> float:
        """As :meth:`score_tokens`, of one token."""
        self._check_fits(len(prefix))
        return fake_logprobs(self.skill, len(prefix), (token,))[0]

    def _check_fits(self, num_tokens: int) -> None:
        """Like vLLM, which draws at least one token after what it is given."""
        if self._max_model_len is not None and num_tokens >= self._max_model_len:
            raise EngineError(f"{num_tokens} tokens are more than the context of {self._max_model_len} has room for")

    def _generate(self, request: GenerateRequest) -> Generation:
        self._check_fits(len(request.prompt_token_ids))
        rng = self._rng if request.seed is None else random.Random(request.seed)
        prompt = decode(request.prompt_token_ids)
        if request.sampling.temperature == 0.0:  # greedy depends on the prompt alone
            rng = random.Random(hash_unit("greedy", prompt))
        token_ids = (*encode(self._text(prompt, rng, request.sampling.max_tokens)), END_ID)
        room = request.sampling.max_tokens
        if self._max_model_len is not None:
            room = min(room, self._max_model_len - len(request.prompt_token_ids))
        kept = token_ids[:room]
        stop = StopReason.STOP if kept[-1:] == (END_ID,) else StopReason.LENGTH
        if self._faults.output == "aborted":
            kept, stop = kept[:1], StopReason.ABORTED
        logprobs = fake_logprobs(self.skill, len(request.prompt_token_ids), kept)
        entropies = fake_entropies(kept) if request.sampling.entropy_top_k else ()
        return Generation(kept, logprobs, tuple(map(decode_token, kept)), stop, self._version, entropies=entropies)

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
