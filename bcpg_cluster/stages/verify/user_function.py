"""A reward function of the user's own, named by file or import path, run in a process of its own under a time limit.

``my_rewards.py:reward`` or ``package.module:reward`` takes any of ``prompt``, ``response``, ``gold`` and ``metadata`` by name, in
any order, or two texts of other names: response and gold answer. The response is what follows the last ``</think>``;
``metadata`` has ``prompt_id``, ``stop_reason`` and the ``full_response``. It returns a score from 0 to 1, or ``None`` when it
cannot tell; it raises for the same.
"""

from __future__ import annotations

from pathlib import Path

from bcpg_cluster.records import OutcomeStatus, Prompt, StopReason
from bcpg_cluster.stages.plugin import PluginName, not_loadable, plugin_file, plugin_name
from bcpg_cluster.stages.verify.line_process import LineProcess
from bcpg_cluster.stages.verify.protocol import Verification, check_not_empty, part_to_check, without_answer

_PROGRAM = Path(__file__).with_name("function_process.py")
# Modules of this package that runs name in their configs, by the name they had when those runs were made.
_MOVED = {"bcpg_cluster.tasks.reasoning_gym": "bcpg_cluster.prompts.tasks.reasoning_gym"}
_MAX_EXTRACTED = 500  # characters of the answer part that are kept; its end
_WHAT = "the reward function"


class FunctionVerifier:
    """Asks a user's function. ``close`` ends its process.

    A score of at least ``threshold`` is reward 1, below it 0. Where there is nothing to read (no text after the last
    ``</think>``, or thinking never ended) it is not asked: the reward is 0. In a response that was cut off it is asked, and
    what it scores below ``threshold`` counts as truncated. A function that returns ``None``, raises, takes too long, or
    returns something else than a number from 0 to 1 leaves the response without a reward.

    Args:
        import_path: ``file.py:function`` or ``package.module:function``; the workers must have the file, or be able to import
            the module.
        digest: of the file's content; a file of another content is refused. ``None`` takes any.
        threshold: the least score that counts as right.
        time_limit_s: for one call. Importing the module does not count.
        prompt_opens_thinking: the generation prompt ends with ``<think>``.
        start_limit_s: for starting the process and importing the module.

    Raises:
        ConfigError: ``import_path`` is no import path, or there is no such file.
    """

    def __init__(
        self,
        import_path: str,
        *,
        digest: str | None = None,
        threshold: float = 1.0,
        time_limit_s: float = 10.0,
        prompt_opens_thinking: bool = False,
        start_limit_s: float = 120.0,
    ) -> None:
        self._plugin = _present_name(plugin_name(import_path, _WHAT))
        if self._plugin.is_file:
            plugin_file(self._plugin, _WHAT)
        self._threshold = threshold
        self._is_known = False
        self._prompt_opens_thinking = prompt_opens_thinking
        self._process = LineProcess(
            _PROGRAM,
            [str(self._plugin), digest or ""],
            name=f"{_WHAT} {import_path}",
            hint="does its module end the process, or take long to import?",
            time_limit_s=time_limit_s,
            start_limit_s=start_limit_s,
        )

    def verify(self, response: str, gold: str, stop_reason: StopReason) -> Verification:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`; the function is told no prompt (``None``).

        Raises:
            ConfigError: the function is not there, or takes something else.
        """
        return self._verify(response, gold, stop_reason, None)

    def verify_sample(self, response: str, prompt: Prompt, stop_reason: StopReason) -> Verification:
        """See :class:`bcpg_cluster.stages.verify.protocol.SampleVerifier`. Raises as :meth:`verify` does."""
        return self._verify(response, prompt.answer, stop_reason, prompt)

    def _verify(self, response: str, gold: str, stop_reason: StopReason, prompt: Prompt | None) -> Verification:
        part = part_to_check(response, stop_reason, prompt_opens_thinking=self._prompt_opens_thinking)
        if isinstance(part, Verification):
            return part
        metadata = {"stop_reason": str(stop_reason), "full_response": response}
        if prompt is not None:
            metadata["prompt_id"] = prompt.prompt_id
        question = None if prompt is None else prompt.question
        reply = self._process.ask({"prompt": question, "response": part, "gold": gold, "metadata": metadata})
        if reply["status"] == "not_importable":
            raise not_loadable(self._plugin, _WHAT, reply["message"])
        if reply["status"] != "scored":
            return Verification(OutcomeStatus.VERIFIER_ERROR, None, why=reply.get("detail") or reply.get("message", ""))
        is_right = reply["score"] >= self._threshold
        if stop_reason is StopReason.LENGTH and not is_right:
            return without_answer(stop_reason)
        why = f"it scored {reply['score']:g}"
        return Verification(OutcomeStatus.VERIFIED, float(is_right), part.strip()[-_MAX_EXTRACTED:], why=why)

    def check_gold(self, gold: str) -> None:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`. Raises ``ConfigError`` for a function that is not there."""
        check_not_empty(gold)
        if self._is_known:
            return
        reply = self._process.ask({})
        if reply["status"] == "not_importable":
            raise not_loadable(self._plugin, _WHAT, reply["message"])
        self._is_known = reply["status"] == "importable"  # a million golds are no million questions

    def close(self) -> None:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`."""
        self._process.close()


def _present_name(plugin: PluginName) -> PluginName:
    return PluginName(_MOVED.get(plugin.place, plugin.place), plugin.name)
