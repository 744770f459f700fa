"""watch.tracking.traces: what a trace says of a sample is what the run's tables say."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from bcpg_cluster.config.tracking import TrackioConfig
from bcpg_cluster.records import Verdict, VerdictStatus
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.watch.examples.choice import choose_rows
from bcpg_cluster.watch.examples.samples import read_samples
from bcpg_cluster.watch.tracking.observer import tracked_run
from bcpg_cluster.watch.tracking.traces import SampleTrace, sample_traces, trace_of


def traces(run: Any, number: int, page: str | None = None) -> list[SampleTrace]:
    config = run.config.model_copy(
        update={"tracking": run.config.tracking.model_copy(update={"trackio": TrackioConfig(), "page": page})}
    )
    return sample_traces(tracked_run(config, "trackio", run.directory), 1, number)


def span(trace: SampleTrace, name: str) -> dict[str, Any]:
    return next(dict(span) for span in trace.spans if span["id"] == name)


def test_the_best_of_the_first_shard_one_a_prompt(finished_run: Any):
    found = traces(finished_run, 3)
    state = read_manifest(finished_run.directory)
    first_shard = read_samples(finished_run.directory, finished_run.config, state, 1, [0])
    ids = [(trace.metadata["prompt_id"], trace.metadata["sample"]) for trace in found]
    assert 1 <= len(ids) <= 3 and len({prompt for prompt, _ in ids}) == len(ids)
    best = choose_rows(first_shard, finished_run.config, None, None)[0]
    assert ids[0] == (best.id.prompt_id, best.id.sample)
    assert {prompt for prompt, _ in ids} <= first_shard.prompts.keys() < all_prompts(finished_run)
    assert len(traces(finished_run, 1)) == 1 and traces(finished_run, 0) == []


def all_prompts(run: Any) -> set[str]:
    return set(read_samples(run.directory, run.config, read_manifest(run.directory), 1).prompts)


def test_spans_are_the_stages_in_their_order_below_one_sample(finished_run: Any):
    for trace in traces(finished_run, 4):
        root, *stages = trace.spans
        assert [stage["id"] for stage in stages] == [
            "generate", "verify", "judge.llm", "judge.prm", "judge.truth", "weigh",
        ]  # fmt: skip
        assert {stage["parent_id"] for stage in stages} == {root["id"]}
        assert {entry["status"] for entry in trace.spans} == {"success"}
        json.dumps([*trace.messages, trace.metadata, *trace.spans])  # plain data


def test_weigh_says_what_each_step_is_and_what_the_truth_calls_it(finished_run: Any):
    state = read_manifest(finished_run.directory)
    samples = read_samples(finished_run.directory, finished_run.config, state, 1, [0])
    rows = {(row.id.prompt_id, row.id.sample): row for row in samples.weighted}
    for trace in traces(finished_run, 4):
        row = rows[trace.metadata["prompt_id"], trace.metadata["sample"]]
        weigh, steps = span(trace, "weigh"), samples.steps[row.id]
        assert "".join(step["text"] for step in weigh["output"]) == trace.messages[1]["content"]
        assert [step["is"].startswith("mined") for step in weigh["output"]] == [
            all(row.mined[step.start : step.end]) for step in steps
        ]
        assert [step["weight"] for step in weigh["output"]] == [row.token_weights[step.start] for step in steps]
        assert weigh["output"][-1]["is"] == "last"
        assert trace.metadata["mined_tokens"] == sum(row.mined)
        assert weigh["metadata"]["truth"][-1].startswith("truth ")
        assert span(trace, "verify")["output"] == {"status": "verified", "reward": 0.0}


def test_a_link_leads_to_the_sample_and_without_a_page_there_is_none(finished_run: Any):
    (trace,) = traces(finished_run, 1, "https://ci.example/run.html#/")
    at = f"{trace.metadata['prompt_id']}/{trace.metadata['sample']}"
    assert trace.metadata["page"] == f"https://ci.example/run.html#/sample/1/{at}"
    assert "page" not in traces(finished_run, 1)[0].metadata


@pytest.mark.parametrize("status", [VerdictStatus.TIMEOUT, VerdictStatus.UNPARSABLE])
def test_a_judge_without_a_verdict_is_an_error_and_not_a_wrong_step(finished_run: Any, status: VerdictStatus):
    state = read_manifest(finished_run.directory)
    samples = read_samples(finished_run.directory, finished_run.config, state, 1, [0])
    row = choose_rows(samples, finished_run.config, None, None)[0]
    first, *others = samples.verdicts["llm"][row.id]
    silent = Verdict(row.id, 0, "llm", first.judge_version, status, raw=first.raw)
    verdicts = {**samples.verdicts, "llm": {row.id: [silent, *others]}}
    trace = trace_of(row, dataclasses.replace(samples, verdicts=verdicts), finished_run.config, None)
    judge = span(trace, "judge.llm")
    assert judge["status"] == "error" and str(status) in judge["error"]
    assert judge["output"][0]["says"] == str(status)
    assert span(trace, "weigh")["output"][0]["is"].startswith("missing")
