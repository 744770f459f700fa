"""Programs that a judge writes into its critique, run for it: what they print takes the place of what the judge expected.

A :class:`~bcpg_cluster.stages.judge.llm.transport.Transport` around another one. A critique with a program is cut off behind it,
the program runs in the sandbox of ``stages.verify.code``, and the judge continues from what was printed, as in GenPRM's published
code (https://github.com/RyanLiu112/GenPRM, genprm_inference.py). Each program stands alone; there they share their variables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.job import Sleeper
from bcpg_cluster.stages.judge.llm.transport import Ask, Reply, Transport
from bcpg_cluster.stages.verify.code.limits import MACHINES_DOING, RunResult, RunStatus
from bcpg_cluster.stages.verify.code.sandbox import Sandbox

MOST_PROGRAMS: Final = 3
MOST_OUTPUT_CHARS: Final = 2000
_PROGRAM: Final = re.compile(r"```python[ \t]*\n(.*?)\n```[ \t]*(?=\n|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Critique:
    """An answer so far: up to ``ran_to`` all its programs were run."""

    ask: Ask
    text: str
    ran_to: int
    num_programs: int
    reply: Reply


class CodeRunning:
    """Answers as ``inner`` does, with at most three programs of each answer run.

    Args:
        inner: one whose last message may be the assistant's, to be continued. Owned from here on.
        sandbox: where programs run; what the machine did to one (no memory, no processor) makes the answer ``ENGINE_LOST``.
    """

    def __init__(self, inner: Transport, sandbox: Sandbox) -> None:
        self._inner, self._sandbox = inner, sandbox

    @property
    def model(self) -> str:
        """See :class:`~bcpg_cluster.stages.judge.llm.transport.Transport`."""
        return self._inner.model

    @property
    def decoding(self) -> Mapping[str, Any]:
        """The inner one's, and that programs are run."""
        return {**self._inner.decoding, "run_code": True}

    @property
    def is_bound(self) -> bool:
        """See :class:`~bcpg_cluster.stages.judge.llm.transport.Transport`."""
        return self._inner.is_bound

    @property
    def enforces(self) -> bool:
        """See :class:`~bcpg_cluster.stages.judge.llm.transport.Transport`."""
        return self._inner.enforces

    def settings(self, *, sample: int, is_json: bool) -> str:
        """The inner one's, and that programs are run."""
        return self._inner.settings(sample=sample, is_json=is_json) + ":code"

    def count_tokens(self, text: str) -> int:
        """See :class:`~bcpg_cluster.stages.judge.llm.transport.Transport`."""
        return self._inner.count_tokens(text)

    def answers(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        """See :class:`~bcpg_cluster.stages.judge.llm.transport.Transport`; a reply counts the tokens of all its parts."""
        waiting = {
            index: _Critique(ask, "", 0, 0, Reply(prompt_tokens=0, answer_tokens=0)) for index, ask in enumerate(asks)
        }
        while waiting:
            indices = list(waiting)
            replies = self._inner.answers([_continued(waiting[index]) for index in indices])
            asked, waiting = waiting, {}
            for place, reply in replies:
                before = asked[indices[place]]
                said = replace(before, text=before.text + reply.text, reply=_added(before.reply, reply))
                after = said if reply.failure is not None else self._ran(said)
                if isinstance(after, Reply):
                    yield indices[place], after
                elif after.text == said.text:
                    yield indices[place], replace(after.reply, text=after.text)
                else:
                    waiting[indices[place]] = after

    def sleep(self) -> bool:
        """See :class:`~bcpg_cluster.stages.job.Sleeper`."""
        return isinstance(self._inner, Sleeper) and self._inner.sleep()

    def wake_up(self) -> None:
        """See :class:`~bcpg_cluster.stages.job.Sleeper`."""
        if isinstance(self._inner, Sleeper):
            self._inner.wake_up()

    def close(self) -> None:
        """Close the inner one."""
        self._inner.close()

    def _ran(self, said: _Critique) -> _Critique | Reply:
        """The critique with its next programs run: cut off behind the first whose output the judge did not foresee.

        Unchanged where there is none; a reply without an answer where the machine ended a program.
        """
        text, ran_to, number = said.text, said.ran_to, said.num_programs
        while number < MOST_PROGRAMS:
            program = _PROGRAM.search(text, max(ran_to, text.find("<verify>")))
            if "<verify>" not in text or program is None or "<output>" in text[: program.start()]:
                break
            result = self._sandbox.run(program[1])
            if result.status in MACHINES_DOING:
                why = f"the sandbox: {result.status} {result.message}".strip()
                return replace(said.reply, text=why, failure=VerdictStatus.ENGINE_LOST)
            number += 1
            shown = text[: program.end()] + f"\n[Code Output]\n\n```\n{_printed(result)}\n```"
            ran_to = len(shown)
            if not text.startswith(shown):
                return replace(said, text=shown + "\n", ran_to=ran_to, num_programs=number)
        return replace(said, ran_to=ran_to, num_programs=number)


def _continued(said: _Critique) -> Ask:
    if not said.text:
        return said.ask
    return replace(said.ask, messages=(*said.ask.messages, {"role": "assistant", "content": said.text}))


def _added(before: Reply, reply: Reply) -> Reply:
    """The last part's reply, with the counts of all parts."""
    counted = [part for part in (before, reply) if part.prompt_tokens is not None and part.answer_tokens is not None]
    costs = [part.cost for part in (before, reply) if part.cost is not None]
    return replace(
        reply,
        prompt_tokens=sum(part.prompt_tokens or 0 for part in counted) if len(counted) == 2 else None,
        answer_tokens=sum(part.answer_tokens or 0 for part in counted) if len(counted) == 2 else None,
        cached_tokens=before.cached_tokens + reply.cached_tokens,
        shareable_tokens=before.shareable_tokens + reply.shareable_tokens,
        cost=sum(costs) if costs else None,
        num_retries=before.num_retries + reply.num_retries,
    )


def _printed(result: RunResult) -> str:
    """What the judge is told of a run, in the words it was trained with."""
    output = result.stdout.decode(errors="replace").strip()
    if result.status is not RunStatus.ENDED:
        output = f"Code execute time out: {result.status}" if result.status is not RunStatus.OUTPUT_LIMIT else output
    elif result.exit_code != 0:
        lines = result.stderr.decode(errors="replace").strip().splitlines()
        output = f"Code execute Error: {lines[-1] if lines else f'exit code {result.exit_code}'}"
    return output[:MOST_OUTPUT_CHARS]
