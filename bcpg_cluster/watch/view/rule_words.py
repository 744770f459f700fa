"""Which rule decided that a step is mined or not, in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bcpg_cluster.config.run import Config
from bcpg_cluster.records import SampleId, Verdict, VerdictStatus
from bcpg_cluster.stages.weigh.consensus import ConsensusRule, consensus
from bcpg_cluster.stages.weigh.stage import flip_seed
from bcpg_cluster.stages.weigh.weights import flip_labels, mined_steps


@dataclass(frozen=True, slots=True)
class Decision:
    """Of one step: the label of the consensus (``None`` while a voter is to come), the sentence, and whether that mines it."""

    consensus: int | None
    rule: str
    is_mined: bool = False


def decisions(
    id_: SampleId,
    num_steps: int,
    verdicts: Mapping[str, Sequence[Verdict] | None],
    config: Config,
    *,
    is_cut_off: bool = False,
) -> list[Decision]:
    """What was decided of every step of a wrong response, by the code that weighs.

    Args:
        verdicts: by voter, one verdict a step; ``None`` for one that has not judged the sample yet.
        is_cut_off: the token limit ended the response, so that its last step states no answer.
    """
    last = _LAST_CUT_OFF if is_cut_off else _LAST
    said = {name: verdicts[name] for name in config.voters}
    to_come = [name for name, of_judge in said.items() if of_judge is None]
    if to_come:
        waiting = Decision(None, f"Not decided yet: {listed(to_come)} {_has(to_come)} not judged it.")
        return [*[waiting] * (num_steps - 1), Decision(None, last)]
    votes = {name: of_judge for name, of_judge in said.items() if of_judge is not None}
    rule = config.consensus_rule
    thresholds = {name: judge.threshold for name, judge in config.judges.items()}
    decided = consensus(votes, thresholds, rule)
    labels = flip_labels(decided.labels, config.weigh.flip_rate, flip_seed(config.seed, id_))
    mined = mined_steps(labels, config.weigh.mine)
    found = []
    for index in range(num_steps):
        by_judge = {name: of_judge[index] for name, of_judge in decided.judge_labels.items()}
        statuses = {name: str(of_judge[index].status) for name, of_judge in votes.items()}
        if index == num_steps - 1:
            words = last
        elif labels[index] != decided.labels[index]:
            words = f"Turned over at random (weigh.flip_rate {config.weigh.flip_rate:g})."
        elif labels[index] and not mined[index]:
            first = labels.index(0)
            words = f"Right, but after step {first}, the first that is not (weigh.mine: prefix)."
        else:
            words = f"{_why(rule, by_judge, statuses)}."
        found.append(Decision(labels[index], words, bool(mined[index]) and index < num_steps - 1))
    return found


_LAST = "The last step states the wrong answer and is never mined."
_LAST_CUT_OFF = "The last step is never mined (the answer was cut off)."


def _why(rule: ConsensusRule, labels: Mapping[str, int | None], statuses: Mapping[str, str]) -> str:
    """Who said what, and what the rule makes of it."""
    right = [name for name, label in labels.items() if label == 1]
    wrong = [name for name, label in labels.items() if label == 0]
    spared = [name for name, status in statuses.items() if status == VerdictStatus.NOT_ASKED]
    silent = [name for name, label in labels.items() if label is None and name not in spared]
    parts = []
    if wrong:
        parts.append(f"{listed(wrong)} {_call(wrong)} it wrong")
    if silent:
        said = ", ".join(dict.fromkeys(statuses[name].replace("_", " ") for name in silent))
        counted = "which counts against it" if rule.abstention == "against" else "and is left out of the count"
        parts.append(f"{listed(silent)} gave no verdict ({said}), {counted}")
    if right and not parts and not spared:
        who = (
            f"{right[0]} calls"
            if len(labels) == 1
            else f"{'Both' if len(right) == 2 else f'All {len(right)}'} voters call"
        )
        parts.append(f"{who} it right")
    elif right and rule.name != "all":
        parts.append(f"{listed(right)} {_call(right)} it right")
    if spared:
        parts.append(f"{listed(spared)} {_was(spared)} not asked, since that decides it")
    return f"{'; '.join(parts)} ({_rule(rule, labels)})"


def _rule(rule: ConsensusRule, labels: Mapping[str, int | None]) -> str:
    match rule.name:
        case "weighted":
            return f"weighted: log-odds {rule.log_odds(labels):+.2f}, above 0 is mined"
        case "k_of_n":
            return f"at least {rule.num_needed} of {len(labels)} voters"
        case "majority":
            return "more than half of the voters"
        case "any":
            return "one voter is enough"
        case _:
            return "all voters must call it right"


def listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _call(names: Sequence[str]) -> str:
    return "calls" if len(names) == 1 else "call"


def _was(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"


def _has(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"
