"""All families of generative process reward models by name, what of a configuration none of them takes, and their thoughts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.judge.llm.families.family import Family, by_name
from bcpg_cluster.stages.judge.llm.families.genprm import GenPrm
from bcpg_cluster.stages.judge.llm.families.rprm import RPrm
from bcpg_cluster.stages.judge.llm.families.thinkprm import ThinkPrm

FAMILIES: Final[Mapping[str, Family]] = by_name(ThinkPrm(), GenPrm(), RPrm())
NOT_REACHED: Final = "not judged: the judge stopped at an earlier step, which it calls wrong"
MOST_THOUGHT_CHARS: Final = 4000
_SIGN: Final = re.compile(
    r"\\boxed\{\s*(?:\\text\{\s*)?(?:in)?correct\s*\}|<output>|is the step correct \(yes/no\)\?", re.IGNORECASE
)
_NAMES: Final = {"thinkprm": "thinkprm", "genprm": "genprm", "rprm": r"(?:^|[/_])r-?prm"}


def family_of(model: str) -> str | None:
    """The family that a model's name says it is of; ``None`` where it says nothing."""
    return next((family for family, part in _NAMES.items() if re.search(part, model, re.IGNORECASE)), None)


def check_fit(
    key: str, family: Family, *, view: str, shows_gold: bool, is_windowed: bool, answer_after: str | None
) -> None:
    """Raises :class:`ConfigError` for settings of a judge that its family was not trained for.

    Args:
        key: the judge's section, ``judges.NAME``.
        is_windowed: whether a question is to be about a part of the steps, or to look ahead.
    """
    what = "all steps in one thought" if family.view == "full" else "one step at a time, without those after it"
    faults = [
        (view != family.view, f"view {view}", f"set view: {family.view}"),
        (is_windowed, "window_steps, window_tokens or look_ahead", "remove them"),
        (shows_gold, "show_gold", "set show_gold: false"),
        (answer_after is not None, f"answer_after {answer_after!r}", "remove it: its thoughts are part of the format"),
    ]
    for is_there, found, remedy in faults:
        if is_there:
            raise ConfigError(
                f"{key}: {found}, but its prompt has answer = {family.name!r}",
                rule=f"this family was trained to judge {what}, by the problem and the steps alone",
                remedy=remedy,
            )


def thought_in(raw: str) -> str:
    """The thought that a verdict's ``raw`` holds, cut for reading; empty for answers of other formats."""
    if _SIGN.search(raw) is None:
        return ""
    return raw if len(raw) <= MOST_THOUGHT_CHARS else raw[:MOST_THOUGHT_CHARS] + " ..."
