"""Samples as traces: what generate, verify, each judge and weigh made of one response, as OpenAI-style messages and spans.

Seconds are left out: a run stores them by shard, not by sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from bcpg_cluster.config.load import parse_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.records import OutcomeStatus, Verdict
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.path import run_path
from bcpg_cluster.store.rows import WeightedRow
from bcpg_cluster.watch.examples.choice import choose_rows, mined_flags, mined_mass
from bcpg_cluster.watch.examples.samples import RoundSamples, read_samples
from bcpg_cluster.watch.examples.step_strip import state_words, step_strip
from bcpg_cluster.watch.examples.truth_words import truth_lines
from bcpg_cluster.watch.report.disagreement import opinion
from bcpg_cluster.watch.tracking.tracker import TrackedRun

Span = Mapping[str, Any]  # trackio's: id, name, kind, input, output, ...


@dataclass(frozen=True, slots=True)
class SampleTrace:
    """One wrong response. The first span is the sample; the stages' are below it, in their order."""

    messages: tuple[Mapping[str, str], ...]
    metadata: Mapping[str, Any]
    spans: tuple[Span, ...]


def sample_traces(run: TrackedRun, round_: int, number: int) -> list[SampleTrace]:
    """The wrong responses of the round's first shard that show most, one a prompt; up to ``number``.

    One shard is enough to choose from, and a round may be larger than memory.

    Raises:
        StoreError: a table is gone or altered.
    """
    config = parse_config(run.config, "the run's config")
    directory = run_path(run.directory, config.storage.options)
    state = read_manifest(directory)
    shards = [receipt.shard for receipt in state.receipts(round_, "weighted")[:1]]
    samples = read_samples(directory, config, state, round_, shards)
    chosen: dict[str, WeightedRow] = {}
    for row in choose_rows(samples, config, None, None):
        if row.id in samples.steps:
            chosen.setdefault(row.id.prompt_id, row)
    return [trace_of(row, samples, config, run.page) for row in list(chosen.values())[:number]]


def trace_of(row: WeightedRow, samples: RoundSamples, config: Config, page: str | None) -> SampleTrace:
    """A wrong response with its steps. ``page``: the address of the run's page, which has a place for every sample."""
    prompt, rollout = samples.prompts[row.id.prompt_id], samples.rollouts[row.id]
    metadata = {
        "round": row.id.round,
        "prompt_id": row.id.prompt_id,
        "sample": row.id.sample,
        "reward": row.reward,
        "advantage": row.advantage,
        "mined_tokens": sum(row.mined),
        "tokens": len(row.mined),
    }
    if (share := mined_mass(row, samples)) is not None:
        metadata["mined_gradient_share"] = share
    if page is not None:
        metadata["page"] = (
            f"{page.partition('#')[0]}#/sample/{row.id.round}/{quote(row.id.prompt_id, '')}/{row.id.sample}"
        )
    root = {"id": "sample", "name": f"{row.id.prompt_id} sample {row.id.sample}", "kind": "span", "status": "success"}
    spans = [_generate(row, samples, config), _verify(row, samples), *_judges(row, samples, config)]
    spans.append(_weigh(row, samples, config))
    return SampleTrace(
        ({"role": "user", "content": prompt.question}, {"role": "assistant", "content": rollout.text}),
        metadata,
        (root, *({"parent_id": "sample", "status": "success", **span} for span in spans)),
    )


def _generate(row: WeightedRow, samples: RoundSamples, config: Config) -> Span:
    rollout = samples.rollouts[row.id]
    return {
        "id": "generate",
        "name": "generate",
        "kind": "generation",
        "model": f"{config.policy.model} (version {rollout.policy_version})",
        "input": samples.prompts[row.id.prompt_id].question,
        "output": rollout.text,
        "usage": {"input_tokens": len(rollout.prompt_token_ids), "output_tokens": len(rollout.token_ids)},
        "metadata": {"stop_reason": str(rollout.stop_reason), "seed": rollout.seed},
    }


def _verify(row: WeightedRow, samples: RoundSamples) -> Span:
    outcome = samples.outcomes[row.id]
    span = {
        "id": "verify",
        "name": "verify",
        "kind": "tool",
        "input": {"found": outcome.extracted, "gold": samples.prompts[row.id.prompt_id].answer},
        "output": {"status": str(outcome.status), "reward": outcome.reward},
    }
    return span | ({"status": "error", "error": outcome.why} if outcome.status is OutcomeStatus.VERIFIER_ERROR else {})


def _judges(row: WeightedRow, samples: RoundSamples, config: Config) -> list[Span]:
    """One span a judge. A judge that gave no verdict on a step has an error, so that it does not look like "wrong"."""
    steps, spans = samples.steps[row.id], list[Span]()
    for name, verdicts in samples.said_of(row.id).items():
        judge = config.judges[name]
        missing = sorted({str(v.status) for v in verdicts if v.status.is_missing})
        words = [opinion(verdict, judge.threshold).words for verdict in verdicts]
        span = {
            "id": f"judge.{name}",
            "name": f"judge {name}",
            "kind": "generation" if judge.model else "tool",
            "input": [step.text for step in steps],
            "output": [{"step": index, "says": word} for index, word in enumerate(words)],
            "metadata": {"role": judge.role, "version": verdicts[0].judge_version, "answers": _answers(verdicts)},
        }
        if judge.model:
            span["model"] = judge.model
        if missing:
            span |= {"status": "error", "error": f"no verdict on some steps: {', '.join(missing)}"}
        spans.append(span)
    return spans


def _answers(verdicts: Sequence[Verdict]) -> list[str]:
    """What the judge wrote; steps of one call share an answer."""
    return list(dict.fromkeys(verdict.raw for verdict in verdicts if verdict.raw))


def _weigh(row: WeightedRow, samples: RoundSamples, config: Config) -> Span:
    steps, said = samples.steps[row.id], samples.said_of(row.id)
    strip = step_strip(steps, said, row, config)
    output = []
    for index, (step, letter) in enumerate(zip(steps, strip, strict=True)):
        weights = sorted(set(row.token_weights[step.start : step.end]))
        output.append(
            {
                "step": index,
                "text": step.text,
                "is": state_words(letter, step, row),
                "weight": weights[0] if len(weights) == 1 else weights,
            }
        )
    return {
        "id": "weigh",
        "name": "weigh",
        "kind": "span",
        "input": {"rule": config.weigh.rule, "beta": config.weigh.beta, "advantage": row.advantage},
        "output": output,
        "metadata": {
            "group_mean": row.group_mean,
            "group_size": row.group_size,
            "truth": truth_lines(mined_flags(row, steps[:-1]), said, config),
        },
    }
