"""A small run as the run page's documents, made by hand: three rounds, two voters and a judge that measures them.

Round 1 is fine; in round 2 ``llm`` got worse; round 3 is half-written. Every text that a model, a data set or a user may have
written holds something hostile.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from bcpg_cluster.watch.view.render import bundle_page, page_parts

HOSTILE = "</script><script>window.hurt = 1</script><img src=x onerror='window.hurt = 1'><style>*{display:none}</style>"
ODD = "\u202egnol\u202c \u05e9\u05dc\u05d5\u05dd \U0001f9ee \u0000\u0007 {{ 7 * 7 }} ${7 * 7} https://example.org/pixel.png"
PROMPT = 'a/b?c#d%41 "x" <i>'  # what an id may hold
DROPPED = "Every answer to the question was right, so none is better than another."


def document_page(documents: Mapping[str, Any], left_out: Sequence[str] = ()) -> str:
    """The page that holds these documents, as ``view --bundle`` writes it."""
    data = gzip.compress(json.dumps(documents).encode(), 6, mtime=0)
    return bundle_page(page_parts(), documents["overview"]["run"]["name"], data, left_out)


def documents() -> dict[str, Any]:
    """The run; every call gives a new one."""
    samples = {f"{sample['round']}/{sample['prompt_id']}/{sample['sample']}": sample for sample in _samples()}
    return {"overview": _overview(), "shards": _shards(), "samples": samples}


def line(prompt: str, sample: int, **known: Any) -> dict[str, Any]:
    """A line of the list: a right answer that is trained on, but for what is ``known``."""
    right = {
        "prompt_id": prompt, "sample": sample, "index": 0, "status": "verified", "stop_reason": "stop", "reward": 1.0,
        "found": "7", "drop": None, "advantage": 0.5, "num_tokens": 6, "num_mined": 0, "num_sure_mined": 0, "mass": 1.5,
        "mined_mass": 0.0, "strip": "", "num_disputed": 0, "dispute": 0.0, "num_missing": 0, "num_unparsable": 0,
        "num_spared": 0, "num_spared_wrong": 0,
    }  # fmt: skip
    return right | known


def shard(
    round_: int, number: int, prompts: list[list[str]], samples: list[dict[str, Any]], **known: Any
) -> dict[str, Any]:
    """A shard of the list."""
    return {"round": round_, "shard": number, "prompts": prompts, "waiting_for": [], "samples": samples} | known


def _shards() -> list[dict[str, Any]]:
    wrong = {"reward": 0.0, "found": "8", "advantage": -0.5}
    hostile = [[PROMPT, f"What is 3 + 4? {HOSTILE} {ODD}", "7"], ["easy", "What is 1 + 1?", "2"]]
    return [
        shard(1, 0, hostile, [
            line(PROMPT, 0),
            line(PROMPT, 1, **wrong, strip="mde", num_tokens=7, num_mined=3, num_sure_mined=1, num_disputed=1, dispute=0.9,
                 num_spared=1, mass=2.5, mined_mass=0.75),
            line(PROMPT, 2, **wrong, strip="m?e", num_tokens=9, num_mined=4, num_missing=1, num_spared=1, num_spared_wrong=1,
                 num_unparsable=1),
            line("easy", 0, index=1, found="2", drop="all_correct", advantage=None),
            line("easy", 1, index=1, found="2", drop="all_correct", advantage=None),
        ]),
        shard(2, 0, [[PROMPT, "What is 3 + 4?", "7"], ["long", "What is 9 + 9?", "18"]], [
            line(PROMPT, 0, **wrong, strip="xme", num_mined=2, num_tokens=8, mass=None, mined_mass=None, num_spared=1),
            line(PROMPT, 1),
            line("long", 0, index=1, **(wrong | {"found": None}), status="truncated", stop_reason="length", num_tokens=64,
                 strip="xxe", mass=9.5),
            line("long", 1, index=1, status="verifier_error", reward=None, found=None, drop="unverified", advantage=None),
        ]),
        shard(3, 0, [["late", "What is 2 + 2?", "4"]], [
            line("late", 0, status="waiting", reward=None, found=None, drop="waiting", advantage=None, strip=""),
        ], waiting_for=["outcomes", "steps", "verdicts.llm"]),
    ]  # fmt: skip


def _samples() -> list[dict[str, Any]]:
    missing = _verdict("llm", None, status="unparsable", raw=f"I think {HOSTILE}", reason="")
    return [
        _sample(1, PROMPT, 0, reward=1.0, found="7", advantage=0.5, text="3+4=7\nanswer 7"),
        _sample(1, PROMPT, 1, steps=[
            _step(0, "3+4=7\n", mined=True, consensus=1, rule="llm and prm call it right.", weight=0.0),
            _step(1, f"so 8 {ODD}\n", consensus=0, rule="prm calls it wrong.", dispute=0.9,
                  verdicts=[_verdict("llm", 1, reason=f"fine {HOSTILE}", raw=HOSTILE), _verdict("prm", 0, score=0.04), _truth(0)]),
            _step(2, "answer 8", is_last=True, consensus=0, rule="The last step is never mined."),
        ]),
        _sample(1, PROMPT, 2, steps=[
            _step(0, "3+4=8\n", mined=True, consensus=1, rule="llm and prm call it right.", weight=0.0,
                  verdicts=[_verdict("llm", 1), _verdict("prm", 1, score=0.97), _truth(0)]),
            _step(1, "check\n", rule="llm said nothing (unparsable).", consensus=0,
                  verdicts=[missing, _verdict("prm", 1, score=0.9), _truth(1)]),
            _step(2, "answer 8", is_last=True, consensus=0, rule="The last step is never mined."),
        ]),
        _sample(2, PROMPT, 0, has_logprobs=False, steps=[
            _step(0, "3+4=9\n", rule="llm and prm call it wrong.", consensus=0,
                  verdicts=[_verdict("llm", 0, error_type="calculation"), _verdict("prm", 0, score=0.01), _truth(0)]),
            _step(1, "9-1=8\n", mined=True, consensus=1, rule="llm and prm call it right.", weight=0.0),
            _step(2, "answer 8", is_last=True, consensus=0, rule="The last step is never mined."),
        ]),
        _sample(2, "long", 0, found=None, status="truncated", stop_reason="length", text="9" * 70_000, has_tokens=False),
    ]  # fmt: skip


def _verdict(judge: str, label: int | None, **known: Any) -> dict[str, Any]:
    threshold = 0.8 if judge == "prm" else None
    role = "measure" if judge == "truth" else "vote"
    empty = {"status": "judged", "score": None, "error_type": None, "reason": "", "raw": None, "latency_s": None}
    return {"judge": judge, "role": role, "label": label, "threshold": threshold} | empty | known


def _truth(label: int) -> dict[str, Any]:
    return _verdict("truth", label)


def _step(index: int, text: str, **known: Any) -> dict[str, Any]:
    """A step that all call right. Its tokens are counted by :func:`_sample`."""
    step = {
        "index": index, "text": text, "is_last": False, "mined": False, "consensus": None, "rule": "", "dispute": 0.0,
        "weight": 1.0, "verdicts": [_verdict("llm", 1), _verdict("prm", 1, score=0.99), _truth(1)], "hand": None,
        "note": "",
    } | known  # fmt: skip
    is_missing = any(verdict["status"] != "judged" for verdict in step["verdicts"])
    words = {"e": step["is_last"], "?": is_missing, "d": step["dispute"] > 0, "m": step["mined"], "x": True}
    step["letter"] = next(letter for letter, is_so in words.items() if is_so)
    truth = {verdict["judge"]: verdict["label"] for verdict in step["verdicts"] if verdict["role"] == "measure"}
    return step | {"truth": truth, "weight_x_advantage": -0.5 * step["weight"]}


def _sample(
    round_: int, prompt: str, number: int, *, steps: Sequence[dict[str, Any]] = (), has_logprobs: bool = True,
    has_tokens: bool = True, **known: Any,
) -> dict[str, Any]:  # fmt: skip
    texts, placed = [], []
    for step in steps:
        words = step["text"].splitlines(keepends=True) or [""]
        pieces = [words[0][:2], words[0][2:], *words[1:]]
        placed.append(step | {"start": len(texts), "end": len(texts) + len(pieces)})
        texts += pieces
    texts = texts or ["3+4=", "7", "\n", "answer 7"]
    p = [round(1 - 0.9 * place / len(texts), 3) if has_logprobs else None for place in range(len(texts))]
    known_p = [None if value is None else round(1 - value, 3) for value in p]
    tokens = {
        "text": texts, "p": p, "mass": known_p, "drift": [None if value is None else value / 1000 - 5e-4 for value in p],
        "weight": [1.0] * len(texts), "weight_x_advantage": [-0.5] * len(texts), "p_after": None,
    }  # fmt: skip
    sample = {
        "round": round_, "prompt_id": prompt, "sample": number, "question": f"What is 3 + 4? {HOSTILE} {ODD}", "gold": "7",
        "found": "8", "status": "verified", "why": "", "reward": 0.0, "stop_reason": "stop", "drop": None, "advantage": -0.5,
        "group_mean": 1 / 3, "group_size": 3, "policy_version": round_ - 1, "seed": None, "num_tokens": len(texts),
        "text": "".join(texts), "steps": placed, "tokens": tokens if has_tokens else None,
        "not_stored": ["The probability of each token after training: runs store none."],
    }  # fmt: skip
    return sample | known


def _interval(value: float, num: int = 400) -> dict[str, Any]:
    return {"value": value, "low": value - 0.04, "high": value + 0.04, "num": num}


def _judged(judge: str, precision: float, recall: float, **missing: int) -> dict[str, Any]:
    known = {
        "judge": judge,
        "against": "truth",
        "precision": precision,
        "recall": recall,
        "f1": (precision + recall) / 2,
    }
    return known | {"num_steps": 90, "num_asked": 100, "num_missing": missing}


def _round(number: int, state: str, sampled: float | None, **known: Any) -> dict[str, Any]:
    accuracy = {"sampled": None, "greedy": None, "pass_at_k": {}, "tests": []}
    if sampled is not None:
        hard = {"name": "hard", "sampled": _interval(sampled / 2), "greedy": None}
        accuracy |= {"sampled": _interval(sampled), "greedy": _interval(sampled + 0.1), "tests": [hard]}
        accuracy["pass_at_k"] = {"1": _interval(sampled), "4": _interval(0.9)}
    cost = {"seconds": [{"stage": "generate", "seconds": 4.0}, {"stage": "train", "seconds": 100.0}], "round_s": 130.0,
            "judge_calls": [{"judge": "llm", "calls": 9, "prompt_tokens": 900, "answer_tokens": 90, "retries": 1}],
            "generated_tokens": 640, "money": 0.25}  # fmt: skip
    base = {
        "round": number, "state": state, "stages": [{"name": "generate", "done": 1, "total": 2}], "accuracy": accuracy,
        "asked": None, "kept": None, "dropped": [], "mined_token_share": None, "mined_gradient_share": None,
        "uncertain_right_share": None, "mined_weight": 0.0,
        "judges": [], "agreement": [], "drift": None, "push": None, "cost": cost,
    }  # fmt: skip
    return base | known


def _trained(number: int, sampled: float, precision: float, gradient: float, **known: Any) -> dict[str, Any]:
    drift = {
        "reference_vs_sampler_mean": 1e-6, "reference_vs_sampler_max": 2e-5, "entropy_first": 0.2, "entropy_last": 0.19,
        "delta_per_token": {"right": 0.01, "wrong": -0.02, "mined": 0.0, "unmined": -0.1}, "loss_first": 0.02,
        "loss_last": 0.01, "grad_norm_max": 0.3,
    }  # fmt: skip
    push = {
        "method": "gloo",
        "num_members": 2,
        "worst_nats": 1e-5,
        "separation_nats": 2.5,
        "canaries": "passed",
        "seconds": 0.2,
    }
    pair = {"judges": ["llm", "prm"], "agreement": 0.95, "kappa": 0.8, "num_steps": 90, "num_disputed": 1}
    judges = [
        _judged("llm", precision, 0.95, unparsable=number),
        _judged("prm", 0.97, 0.96),
        _judged("consensus", 0.98, 0.9),
    ]
    return _round(
        number, "done", sampled, mined_token_share=gradient + 0.05, mined_gradient_share=gradient, drift=drift, push=push,
        uncertain_right_share=0.2, judges=judges, agreement=[pair], **known,
    )  # fmt: skip


def _overview() -> dict[str, Any]:
    all_correct = {"reason": "all_correct", "num": 2, "text": DROPPED}
    unverified = {"reason": "unverified", "num": 1, "text": "The answer could not be checked."}
    config = [
        {"key": "weigh.beta", "value": "0", "default": "0.01", "differs": True},
        {"key": "seed", "value": "0", "default": "0", "differs": False},
        {"key": "verify.answer_pattern", "value": HOSTILE, "default": None, "differs": True},
    ]
    judges = [
        {"name": "llm", "role": "vote", "kind": "llm", "model": HOSTILE, "rule": "local", "threshold": None},
        {"name": "prm", "role": "vote", "kind": "prm", "model": "a/prm", "rule": "local", "threshold": 0.8},
        {"name": "truth", "role": "measure", "kind": "sums_truth", "model": None, "rule": "local", "threshold": None},
    ]
    link = f"#/sample/1/{quoted(PROMPT)}"
    return {
        "schema": 1,
        "run": {
            "name": f"sums {HOSTILE}", "directory": "runs/sums", "made_with": "bcpg-cluster 0.1.0", "state": "stopped",
            "why": "interrupted by a person", "started": 1.79e9, "heartbeat": 1.79e9 + 300, "objective": "bcpg",
            "method": "Of a wrong answer, steps that llm and prm call right carry no penalty.", "judges": judges,
        },
        "notices": [f"Round 3 is half-written: shard 1 has no responses yet. {HOSTILE}"],
        "start_here": [
            {"title": "The round in which a judge got worse", "link": "#/?at=judges",
             "text": "Round 2: the precision of llm against truth fell from 95.0 % to 88.0 %."},
            {"title": "A wrong answer whose right steps were spared", "text": "Round 1, sample 1.", "link": f"{link}/1/step/0"},
            {"title": "A step on which the judges disagree", "text": "Round 1, sample 1, step 1.", "link": f"{link}/1/step/1"},
            {"title": "Why 3 samples were dropped", "text": "2 all correct, 1 unverified.", "link": "#/?at=samples"},
            {"title": "What share of the gradient mined tokens hold", "text": "Round 1: 60.0 %.", "link": "#/?at=mined"},
            {"title": "Hostile", "text": HOSTILE, "link": "javascript:window.hurt=1"},
        ],
        "rounds": [
            _round(0, "base", 0.5),
            _trained(1, 0.6, 0.95, 0.6, asked=5, kept=3, dropped=[all_correct]),
            _trained(2, 0.65, 0.88, 0.7, asked=4, kept=3, dropped=[unverified]),
            _round(3, "under way", None),
        ],
        "gantt": {
            "start": 1.79e9,
            "lanes": [
                {"pool": "rollout", "bars": [_bar(0, 9, "generate", 1), _bar(2, 12, "generate", 1), _bar(150, 160, "generate", 2)]},
                {"pool": "trainer", "bars": [_bar(20, 140, "train", 1), _bar(170, 290, "train", 2)]},
            ],
            "bounds": [
                {"round": 0, "bound_s": None, "took_s": 10.0, "text": "Round 0 is an evaluation alone.", "busy": {}},
                {"round": 1, "bound_s": 125.0, "took_s": 140.0, "text": "max(D 5.0 s, R 0.0 s) + T 120.0 s.",
                 "busy": {"rollout": 0.05, "trainer": 0.86}},
            ],
        },
        "events": [{"time": 1.79e9, "round": 1, "kind": "retry", "text": f"verify, shard 0: {HOSTILE}"}],
        "config": config,
        "shards": [
            {"round": 1, "shard": 0, "num_samples": 5, "waiting_for": []},
            {"round": 2, "shard": 0, "num_samples": 4, "waiting_for": []},
            {"round": 3, "shard": 0, "num_samples": 1, "waiting_for": ["outcomes", "steps", "verdicts.llm"]},
        ],
        "files": {"labels": None},
    }  # fmt: skip


def _bar(start: float, end: float, stage: str, round_: int) -> dict[str, Any]:
    return {
        "start": 1.79e9 + start,
        "end": 1.79e9 + end,
        "stage": stage,
        "round": round_,
        "text": f"shard 0: {HOSTILE}",
    }


def quoted(prompt: str) -> str:
    """A prompt's id in an address."""
    return quote(prompt, safe="")
