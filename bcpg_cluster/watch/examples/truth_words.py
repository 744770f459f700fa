"""Where judges that measure disagree with what was mined, in words. The last step is left out: it is never mined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bcpg_cluster.config.run import Config
from bcpg_cluster.records import Verdict, VerdictStatus
from bcpg_cluster.stages.weigh.consensus import vote_label


def truth_agreement(mined: Sequence[bool], said: Mapping[str, Sequence[Verdict]], config: Config) -> float | None:
    """Share of steps on which the judges that measure call right what was mined, and wrong what was not.

    Args:
        mined: by step, the last left out.
        said: by judge, a verdict a step.

    Returns:
        ``None`` where none of them said anything.
    """
    found = [
        label == is_mined
        for name in config.measures
        for label, is_mined in zip(_labels(name, said, config), mined, strict=False)
        if label is not None
    ]
    return sum(found) / len(found) if found else None


def truth_lines(mined: Sequence[bool], said: Mapping[str, Sequence[Verdict]], config: Config) -> list[str]:
    """A sentence for every step on which a judge that measures disagrees, and one for all on which it does not.

    Args: as for :func:`truth_agreement`. There are no lines where no judge measures.
    """
    lines = []
    for name in config.measures:
        labels = _labels(name, said, config)[: len(mined)]
        apart = [i for i, label in enumerate(labels) if label is not None and label != mined[i]]
        num_known = sum(label is not None for label in labels)
        for index in apart:
            link = "so" if _rule_says(index, said, config) == mined[index] else "yet"
            lines.append(
                f"{name} calls step {index} {_word(labels[index])}; {_voters_said(index, said, config)}, "
                f"{link} it was {'mined' if mined[index] else 'not mined'}"
            )
        if not num_known:
            lines.append(f"{name} said nothing of these steps")
        elif apart:
            lines.append(f"{name} agrees on the other {num_known - len(apart)} of {num_known} steps before the last")
        elif num_known == 1:
            lines.append(f"{name} agrees on the one step before the last")
        else:
            lines.append(f"{name} agrees on all {num_known} steps before the last")
    return lines


def _labels(name: str, said: Mapping[str, Sequence[Verdict]], config: Config) -> list[int | None]:
    return [vote_label(verdict, config.judges[name].threshold) for verdict in said.get(name, ())]


def _rule_says(index: int, said: Mapping[str, Sequence[Verdict]], config: Config) -> bool:
    votes = {name: vote_label(said[name][index], config.judges[name].threshold) for name in config.voters}
    return bool(config.consensus_rule.decide(votes))


def _voters_said(index: int, said: Mapping[str, Sequence[Verdict]], config: Config) -> str:
    """``both voters called it right``, or each by name."""
    words = []
    for name in config.voters:
        verdict = said[name][index]
        label = vote_label(verdict, config.judges[name].threshold)
        status = str(verdict.status).replace("_", " ")
        if verdict.status is VerdictStatus.NOT_ASKED:
            words.append("was not asked")
        else:
            words.append(f"gave no verdict ({status})" if label is None else f"called it {_word(label)}")
    if len(words) > 1 and len(set(words)) == 1:
        return f"{'both' if len(words) == 2 else f'all {len(words)}'} voters {words[0]}"
    return ", ".join(f"{name} {word}" for name, word in zip(config.voters, words, strict=True))


def _word(label: int | None) -> str:
    return "right" if label else "wrong"
