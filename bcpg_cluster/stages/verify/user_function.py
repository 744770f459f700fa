"""A reward function of the user's own, named by import path, run in a process of its own under a time limit.

``package.module:function`` takes ``(answer_part, gold)``, two texts: what follows the last ``</think>`` of a response, and
the prompt's gold answer. It returns a score from 0 to 1, or ``None`` when it cannot tell; it raises for the same.
"""

from __future__ import annotations

import re
from pathlib import Path

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.records import OutcomeStatus, StopReason
from bcpg_cluster.stages.verify.line_process import LineProcess
from bcpg_cluster.stages.verify.protocol import Verification, check_not_empty, part_to_check, without_answer

_PROGRAM = Path(__file__).with_name("function_process.py")
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
# Modules of this package that runs name in their configs, by the name they had when those runs were made.
_MOVED = {"bcpg_cluster.tasks.reasoning_gym": "bcpg_cluster.prompts.tasks.reasoning_gym"}
_MAX_EXTRACTED = 500  # characters of the answer part that are kept; its end


class FunctionVerifier:
    """Asks a user's function. ``close`` ends its process.

    A score of at least ``threshold`` is reward 1, below it 0. Where there is nothing to read (no text after the last
    ``</think>``, or thinking never ended) it is not asked: the reward is 0. In a response that was cut off it is asked, and
    what it scores below ``threshold`` counts as truncated. A function that returns ``None``, raises, takes too long, or
    returns something else than a number from 0 to 1 leaves the response without a reward.

    Args:
        import_path: ``package.module:function``; the module must be importable in the workers.
        threshold: the least score that counts as right.
        time_limit_s: for one call. Importing the module does not count.
        prompt_opens_thinking: the generation prompt ends with ``<think>``.
        start_limit_s: for starting the process and importing the module.

    Raises:
        ConfigError: ``import_path`` is no import path.
    """

    def __init__(
        self,
        import_path: str,
        *,
        threshold: float = 1.0,
        time_limit_s: float = 10.0,
        prompt_opens_thinking: bool = False,
        start_limit_s: float = 120.0,
    ) -> None:
        if not _IMPORT_PATH.fullmatch(import_path):
            raise _import_error(import_path, "is not an import path")
        self._import_path, self._threshold = import_path, threshold
        self._prompt_opens_thinking = prompt_opens_thinking
        self._process = LineProcess(
            _PROGRAM,
            [_present_path(import_path)],
            name=f"the reward function {import_path}",
            hint="does its module end the process, or take long to import?",
            time_limit_s=time_limit_s,
            start_limit_s=start_limit_s,
        )

    def verify(self, response: str, gold: str, stop_reason: StopReason) -> Verification:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`. Raises ``ConfigError`` for a function that is not there."""
        part = part_to_check(response, stop_reason, prompt_opens_thinking=self._prompt_opens_thinking)
        if isinstance(part, Verification):
            return part
        reply = self._process.ask({"response": part, "gold": gold})
        if reply["status"] == "not_importable":
            raise _import_error(self._import_path, reply["message"])
        if reply["status"] != "scored":
            return Verification(OutcomeStatus.VERIFIER_ERROR, None)
        is_right = reply["score"] >= self._threshold
        if stop_reason is StopReason.LENGTH and not is_right:
            return without_answer(stop_reason)
        return Verification(OutcomeStatus.VERIFIED, float(is_right), part.strip()[-_MAX_EXTRACTED:])

    def check_gold(self, gold: str) -> None:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`. Raises ``ConfigError`` for a function that is not there."""
        check_not_empty(gold)
        reply = self._process.ask({})
        if reply["status"] == "not_importable":
            raise _import_error(self._import_path, reply["message"])

    def close(self) -> None:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`."""
        self._process.close()


def _present_path(import_path: str) -> str:
    module, _, name = import_path.partition(":")
    return f"{_MOVED.get(module, module)}:{name}"


def _import_error(import_path: str, problem: str) -> ConfigError:
    return ConfigError(
        f"the reward function {import_path!r} cannot be used: {problem}",
        rule="package.module:function names something callable that every worker can import",
        remedy="install the package where the workers run, or put its folder on PYTHONPATH",
    )
