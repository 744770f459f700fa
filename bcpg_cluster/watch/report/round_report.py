"""A round's report, computed from nothing but accepted receipts: any reader of the manifest gets the same numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from itertools import combinations
from typing import Any

from bcpg_cluster.errors import StoreError
from bcpg_cluster.records import GREEDY_SAMPLE, Outcome, Receipt, SampleId
from bcpg_cluster.watch.report.accuracy import avg_at_n, mean_pass_at_k, paired_difference


def total(receipts: Sequence[Receipt]) -> dict[str, float]:
    """Sum the receipts' metrics."""
    sums: Counter[str] = Counter()
    for receipt in receipts:
        sums.update(receipt.metrics)
    return {key: float(value) for key, value in sums.items()}


def accuracy_report(outcomes: Mapping[SampleId, Outcome], prompt_ids: Set[str] | None = None) -> dict[str, Any]:
    """avg@n, pass@k and greedy accuracy with standard errors, from the verified samples of an evaluation.

    A sample without a reward is left out and counted. ``per_problem`` keeps what paired differences need.

    Args:
        prompt_ids: look at these problems only.
    """
    rewards: dict[str, list[float]] = {}
    greedy: dict[str, float] = {}
    unverified = 0
    for id_, outcome in outcomes.items():
        if prompt_ids is not None and id_.prompt_id not in prompt_ids:
            continue
        if outcome.reward is None:
            unverified += 1
        elif id_.sample == GREEDY_SAMPLE:
            greedy[id_.prompt_id] = outcome.reward
        else:
            rewards.setdefault(id_.prompt_id, []).append(outcome.reward)
    report: dict[str, Any] = {"num_problems": len(rewards), "unverified": unverified}
    correct, sizes = [int(sum(r)) for r in rewards.values()], [len(r) for r in rewards.values()]
    sampled = avg_at_n(correct, sizes)
    if sampled is not None:
        report |= {
            "accuracy": sampled.mean,
            "stderr": sampled.problems_error,
            "sampling_stderr": sampled.sampling_error,
            "samples_per_problem": min(sizes),
            "pass_at_k": {
                str(k): {"mean": estimate.mean, "stderr": estimate.standard_error}
                for k in (1, 2, 4, 8, 16, 32)
                if k <= min(sizes) and (estimate := mean_pass_at_k(correct, sizes, k)) is not None
            },
        }
    best = avg_at_n([int(r) for r in greedy.values()], [1] * len(greedy))
    if best is not None:
        report |= {"accuracy_greedy": best.mean, "stderr_greedy": best.problems_error}
    report["per_problem"] = {prompt: [sum(r) / len(r), greedy.get(prompt)] for prompt, r in sorted(rewards.items())}
    return report


def change(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Paired differences between two accuracy reports over the problems they share, with standard errors."""
    result: dict[str, Any] = {}
    for index, name in enumerate(("accuracy", "accuracy_greedy")):
        old = {p: v[index] for p, v in before["per_problem"].items() if v[index] is not None}
        new = {p: v[index] for p, v in after["per_problem"].items() if v[index] is not None}
        shared = old.keys() & new.keys()
        difference = paired_difference({p: old[p] for p in shared}, {p: new[p] for p in shared})
        if difference is not None:
            result[name] = {"mean": difference.mean, "stderr": difference.standard_error}
    return result


def conservation(weigh: Mapping[str, float]) -> dict[str, Any]:
    """Asked = kept + dropped, by reason.

    Raises:
        StoreError: it does not hold.
    """
    dropped = {key.removeprefix("dropped."): int(n) for key, n in weigh.items() if key.startswith("dropped.") and n}
    asked, kept = int(weigh.get("asked", 0)), int(weigh.get("kept", 0))
    if asked != kept + sum(dropped.values()):
        raise StoreError(f"samples do not add up: asked {asked}, kept {kept}, dropped {dropped}")
    return {"asked": asked, "kept": kept, "dropped": dropped}


def judge_report(weigh: Mapping[str, float], voters: Sequence[str], measures: Sequence[str]) -> dict[str, Any]:
    """Each judge's and the consensus' precision and recall against each measure, and how far the voters agree."""
    quality: dict[str, Any] = {}
    for measure in measures:
        for name in (*voters, "consensus"):
            quality.setdefault(name, {})[measure] = {
                unit: _quality(weigh, f"quality.{name}.{measure}", unit) for unit in ("tokens", "steps")
            }
    agreement = {
        f"{first}+{second}": _agreement(weigh, f"pair.{first}+{second}") for first, second in combinations(voters, 2)
    }
    abstained = {key.removeprefix("abstained."): int(n) for key, n in weigh.items() if key.startswith("abstained.")}
    return {"quality": quality, "agreement": agreement, "abstained": abstained}


def judge_account(verdicts: Mapping[str, float]) -> dict[str, float] | None:
    """What a judge's calls of a round took, from the sums of its receipts' metrics; ``None`` for a judge that keeps no account.

    Of accepted shards alone: what was spent on work that had to be done again is in no receipt.

    Returns:
        ``calls``, of them ``stored`` (answered by the cache) and ``uncounted`` (nobody counted their tokens); ``repair`` and
        ``repaired`` (second tries of unreadable answers, and those that helped), ``retries``, ``prompt_tokens``, of them
        ``cached_tokens``, ``answer_tokens``, and, where prices were given, ``cost``.
    """
    if "judge.calls" not in verdicts:
        return None
    names = {
        "calls": "calls", "stored": "calls.stored", "uncounted": "calls.uncounted", "repair": "calls.repair",
        "repaired": "calls.repaired", "retries": "retries", "prompt_tokens": "prompt_tokens",
        "cached_tokens": "prompt_tokens.cached", "answer_tokens": "answer_tokens",
    }  # fmt: skip
    account = {ours: verdicts.get(f"judge.{key}", 0.0) for ours, key in names.items()}
    return account | ({"cost": verdicts["judge.cost"]} if "judge.cost" in verdicts else {})


def _quality(counts: Mapping[str, float], prefix: str, unit: str) -> dict[str, float | None]:
    def cell(truth: str, said: str) -> float:
        return counts.get(f"{prefix}.{truth}.{said}.{unit}", 0.0)

    hit, false_alarm = cell("right", "right"), cell("wrong", "right")
    right = hit + cell("right", "wrong") + cell("right", "none")
    said_right = hit + false_alarm
    everything = right + false_alarm + cell("wrong", "wrong") + cell("wrong", "none")
    return {
        "precision": hit / said_right if said_right else None,
        "recall": hit / right if right else None,
        "true_share": right / everything if everything else None,
        "count": everything,
    }


def _agreement(counts: Mapping[str, float], prefix: str) -> dict[str, float | None]:
    """Share of steps on which two judges say the same, and Cohen's kappa; abstentions are left out."""
    cells = {(a, b): counts.get(f"{prefix}.{a}.{b}", 0.0) for a in ("right", "wrong") for b in ("right", "wrong")}
    number = sum(cells.values())
    if not number:
        return {"agreement": None, "kappa": None, "steps": 0.0}
    same = (cells["right", "right"] + cells["wrong", "wrong"]) / number
    first = (cells["right", "right"] + cells["right", "wrong"]) / number
    second = (cells["right", "right"] + cells["wrong", "right"]) / number
    chance = first * second + (1 - first) * (1 - second)
    return {"agreement": same, "kappa": (same - chance) / (1 - chance) if chance < 1 else None, "steps": number}


def rates(totals: Mapping[str, Mapping[str, float]], seconds: Mapping[str, float]) -> dict[str, float]:
    """Tokens per wall second of every stage that counts tokens and did something in this process."""
    return {
        stage: totals[stage]["tokens"] / seconds[stage]
        for stage in seconds
        if totals.get(stage, {}).get("tokens") and seconds[stage] > 0
    }
