"""A judge of the user's own: a class with the methods of :class:`bcpg_cluster.stages.judge.protocol.Judge`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bcpg_cluster.errors import BcpgError, EngineError
from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.judge.protocol import Judge, JudgeCase, Judged, Judgement
from bcpg_cluster.stages.plugin import make_plugin, not_loadable, plugin_name


class UserJudge:
    """Asks it, and checks what it says. Whatever it raises is an ``EngineError``: the shard is tried again.

    Args:
        name: the judge's name in the config.
        import_path: ``file.py:Name`` or ``package.module:Name``.
        options: its keyword arguments.
        digest: of the file's content; ``None`` takes any.

    Raises:
        ConfigError: it cannot be imported or made, or is no judge.
    """

    def __init__(self, name: str, import_path: str, options: Mapping[str, Any], *, digest: str | None = None) -> None:
        self._what = f"judges.{name}.class"
        self._plugin = plugin_name(import_path, self._what)
        self._judge: Judge = make_plugin(self._plugin, self._what, options, digest, needs=("judge", "version", "close"))
        self._digest = digest

    @property
    def version(self) -> str:
        """The judge's own, and which content of its file said so."""
        return self._judge.version if self._digest is None else f"{self._judge.version}@{self._digest}"

    def judge(self, cases: Sequence[JudgeCase]) -> Judged:
        """See :class:`bcpg_cluster.stages.judge.protocol.Judge`.

        Raises:
            ConfigError: its answer is no :class:`Judged`, or has a verdict that says two things or nothing.
        """
        try:
            judged = self._judge.judge(cases)
        except BcpgError:
            raise
        except Exception as error:  # a user's judge may raise anything
            raise EngineError(f"{self._what} {self._plugin}: {type(error).__name__}: {error}") from error
        if not isinstance(judged, Judged):
            raise not_loadable(
                self._plugin,
                self._what,
                f"judge() returned a {type(judged).__name__}, not a Judged (stages.judge.protocol)",
            )
        for judgement in (said for of_case in judged.judgements for said in of_case):
            if fault := judgement_fault(judgement):
                raise not_loadable(self._plugin, self._what, fault)
        return judged

    def close(self) -> None:
        """See :class:`bcpg_cluster.stages.judge.protocol.Judge`."""
        self._judge.close()


def judgement_fault(said: Judgement) -> str:
    """What is wrong with a verdict; empty where nothing is."""
    if said.status is not VerdictStatus.JUDGED:
        given = said.label if said.score is None else said.score
        return "" if given is None else f"a verdict of status {said.status} carries {given!r}"
    if (said.label is None) == (said.score is None):
        return f"a verdict carries label {said.label!r} and score {said.score!r}; it has exactly one of them"
    if said.label not in (None, 0, 1):
        return f"a verdict's label is {said.label!r}, neither 0 nor 1"
    if said.score is not None and not 0.0 <= said.score <= 1.0:
        return f"a verdict's score is {said.score!r}, outside 0 .. 1"
    return ""
