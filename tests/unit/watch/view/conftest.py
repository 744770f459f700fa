"""A shard of two samples whose every value can be worked out by hand, and a stand-in for the page's own files."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.records import ErrorType, Outcome, OutcomeStatus, Prompt, SampleId, Step, Verdict, VerdictStatus
from bcpg_cluster.run.directory import load_run_config
from bcpg_cluster.store.schema import schema_of
from bcpg_cluster.watch.view.labels import LabelFile
from bcpg_cluster.watch.view.render import PageParts
from bcpg_cluster.watch.view.shard_tables import ShardTables
from bcpg_cluster.watch.view.source import RunSource

WRONG, RIGHT = SampleId(1, "p", 0), SampleId(1, "p", 1)
HOSTILE = "</script><script>alert(1)</script> <!-- \u2028 &amp; "


@pytest.fixture(scope="session")
def config(make_config: Callable[..., Config]) -> Config:
    judges = {
        "llm": {"kind": "fake"},
        "prm": {"kind": "prm", "model": "m", "threshold": 0.8},
        "truth": {"kind": "chain_truth", "role": "measure"},
    }
    content = make_config().model_dump(mode="json") | {"judges": judges, "weigh": {"beta": 0.0}}
    return Config.model_validate(content)


def verdicts(judge: str, *said: Any, raw: str = "") -> list[Verdict]:
    """A judge's verdicts on the wrong sample: 0 or 1, a score, or a status."""

    def verdict(index: int, value: Any) -> Verdict:
        if isinstance(value, VerdictStatus):
            return Verdict(WRONG, index, judge, "v", value, raw=raw)
        if isinstance(value, float):
            return Verdict(WRONG, index, judge, "v", VerdictStatus.JUDGED, score=value, raw=raw)
        error = ErrorType.NONE if value else ErrorType.CALCULATION
        return Verdict(WRONG, index, judge, "v", VerdictStatus.JUDGED, label=value, error_type=error, raw=raw)

    return [verdict(index, value) for index, value in enumerate(said)]


@pytest.fixture
def make_tables() -> Callable[..., ShardTables]:
    """``make_tables(llm=[...], prm=[...], truth=[...])``: the shard with these verdicts; ``None`` has not judged yet."""

    def make(llm: Any = (1, 0, 0), prm: Any = (0.9, 0.95, 0.1), truth: Any = (1, 1, 0), raw: str = "") -> ShardTables:
        rollouts = pa.Table.from_pylist(
            [
                {
                    "round": 1,
                    "prompt_id": "p",
                    "sample": sample,
                    "sampler_logprobs": [math.log(p) for p in probabilities],
                    "token_texts": [HOSTILE, *"bcdef"][: len(probabilities)],
                    "stop_reason": "stop",
                    "policy_version": 0,
                    "seed": 7,
                }
                for sample, probabilities in enumerate([[0.5, 0.25, 1.0, 1.0, 0.5, 1.0], [0.5, 0.5]])
            ],
            schema=pa.schema([field for field in schema_of("rollouts") if "token_ids" not in field.name]),
        )
        weighted = pa.Table.from_pylist(
            [
                _weighted(0, [0.0, 0.0, 1.0, 1.0, 1.0, 1.0], -0.5, 0.0, [True, True, False, False, False, False]),
                _weighted(1, [1.0, 1.0], 0.5, 1.0, [False, False]),
            ]
        )
        said = {"llm": llm, "prm": prm, "truth": truth}
        return ShardTables(
            1,
            0,
            [Prompt("p", f"question {HOSTILE}", "42")],
            rollouts,
            [6, 2],
            {
                WRONG: Outcome(WRONG, OutcomeStatus.VERIFIED, 0.0, "41"),
                RIGHT: Outcome(RIGHT, OutcomeStatus.VERIFIED, 1.0, "42"),
            },
            {WRONG: [Step(0, 2, f"{HOSTILE}b"), Step(2, 4, "cd"), Step(4, 6, "ef")]},
            {
                name: None if of is None else {WRONG: verdicts(name, *of, raw=raw if name == "llm" else "")}
                for name, of in said.items()
            },
            weighted,
            {},
        )

    return make


def _weighted(sample: int, weights: list[float], advantage: float, reward: float, mined: list[bool]) -> dict[str, Any]:
    return {
        "round": 1,
        "prompt_id": "p",
        "sample": sample,
        "token_weights": weights,
        "mined": mined,
        "advantage": advantage,
        "reward": reward,
        "group_mean": 0.5,
        "group_size": 2,
        "rival_prompt_id": None,
        "rival_sample": None,
    }


@pytest.fixture
def parts() -> PageParts:
    template = (
        "<html><meta content='{{ csp }}'><title>{{ title }}</title><style>{{ style }}</style>"
        '<script id="boot" type="application/json">{{ boot }}</script>'
        '{% if data %}<script id="data" type="text/plain">{{ data }}</script>{% endif %}'
        "<script>{{ script }}</script></html>"
    )
    return PageParts(template, "b { color: red }", "let a = 1 && 2;")


@pytest.fixture
def open_source() -> Callable[..., RunSource]:
    """``open_source(run_dir, labels=FILE)``."""

    def make(run_dir: Path, labels: Path | None = None, **options: Any) -> RunSource:
        file = None if labels is None else LabelFile(labels, run_dir.name)
        return RunSource(run_dir, partial(load_run_config, run_dir), file, **options)

    return make
