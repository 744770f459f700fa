"""report/disagreement.py, its page and the command: who quarrels about what, by hand and on a finished run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcpg_cluster.errors import ConfigError, RunDirectoryError
from bcpg_cluster.records import ErrorType, SampleId, Verdict, VerdictStatus
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.watch.report.disagreement import (
    Disagreement,
    JudgedSample,
    JudgedStep,
    Opinion,
    compare_judges,
    dispute,
    judged_shards,
    opinion,
)
from bcpg_cluster.watch.report.disagreement_page import disagreement_page
from bcpg_cluster.watch.report.judge_quality import pair_quality, truth_quality
from bcpg_cluster_cli.judging.disagreements import run_disagreements

RIGHT, WRONG, SILENT = Opinion(1, 1.0, "right"), Opinion(0, 0.0, "wrong"), Opinion(None, None, "timeout")


def scored(score: float, threshold: float = 0.5) -> Opinion:
    return Opinion(int(score > threshold), score, f"{score:.2f}")


@pytest.mark.parametrize(
    ("opinions", "apart"),
    [
        ([RIGHT, RIGHT], 0.0), ([RIGHT, WRONG], 1.0), ([RIGHT], 0.0), ([], 0.0),
        ([RIGHT, SILENT], 0.0), ([SILENT, SILENT], 0.0), ([RIGHT, WRONG, SILENT], 1.0),
        ([RIGHT, WRONG, WRONG], 2 / 3),
        ([scored(0.75), WRONG], 0.75), ([scored(0.5), RIGHT], 0.5),
        ([scored(0.6), scored(0.9)], 0.0),  # both right: no quarrel about the step
        ([scored(0.25), scored(0.75), RIGHT], (0.5 + 0.75) / 3),
    ],
)  # fmt: skip
def test_dispute_by_hand(opinions: Sequence[Opinion], apart: float):
    assert dispute(opinions) == pytest.approx(apart)


OPINIONS = st.lists(st.one_of(st.sampled_from([RIGHT, WRONG, SILENT]), st.floats(0, 1).map(scored)), max_size=5)


@given(OPINIONS, st.randoms())
@settings(deadline=None)
def test_dispute_is_a_share_and_nobodys_order_matters(opinions: list[Opinion], random: Any):
    apart = dispute(opinions)
    assert 0.0 <= apart <= 1.0
    shuffled = random.sample(opinions, len(opinions))
    assert dispute(shuffled) == pytest.approx(apart)
    if len({said.label for said in opinions if said.label is not None}) < 2:
        assert apart == 0.0


def test_opinions_in_words():
    def verdict(**said: Any) -> Verdict:
        return Verdict(SampleId(1, "p", 0), 0, "j", "v", said.pop("status", VerdictStatus.JUDGED), **said)

    assert opinion(verdict(label=1, error_type=ErrorType.NONE), None) == Opinion(1, 1.0, "right")
    assert opinion(verdict(label=0, error_type=ErrorType.LOGIC), None) == Opinion(0, 0.0, "wrong (logic)")
    assert opinion(verdict(score=0.5), 0.5) == Opinion(0, 0.5, "0.50 wrong")
    assert opinion(verdict(status=VerdictStatus.REFUSED), None) == Opinion(None, None, "refused")
    assert opinion(None, None) == Opinion(None, None, "not judged")


def sample(name: str, *steps: tuple[Opinion, Opinion], truth: Opinion = RIGHT) -> JudgedSample:
    judged = tuple(
        JudgedStep(index, f"step {index} of <{name}>", {"a": a, "b": b}, {"t": truth}, index == len(steps) - 1)
        for index, (a, b) in enumerate(steps)
    )
    return JudgedSample(
        SampleId(1, name, 0), f"is {name} < 1 & so on?", "7", None, 3, judged, {"a": ("<raw>",), "b": ()}
    )


def compared(*samples: JudgedSample, num_samples: int = 50, num_steps: int = 20) -> Disagreement:
    """Of samples that came one a shard."""
    return compare_judges([[one] for one in samples], num_samples, num_steps)


def test_last_steps_are_shown_but_not_counted():
    quarrel = sample("x", (RIGHT, RIGHT), (RIGHT, WRONG), (RIGHT, SILENT), (RIGHT, WRONG))
    assert [step.dispute for step in quarrel.steps] == [0.0, 1.0, 0.0, 0.0]
    assert (quarrel.num_disputed, quarrel.dispute) == (1, 1.0)
    facts = compared(quarrel).facts
    assert (facts["num_samples"], facts["num_steps"], facts["num_disputed"]) == (1, 3, 1)
    assert facts["pairs"]["a+b"]["agreement"] == 1 / 2
    assert facts["truth"]["t"]["b"]["recall"] == 1 / 3
    assert compared().facts["num_samples"] == 0


def test_the_fiercest_steps_first():
    loud, faint = sample("loud", (RIGHT, WRONG), (RIGHT, RIGHT)), sample("faint", (scored(0.6), WRONG), (RIGHT, RIGHT))
    found = compared(faint, loud)
    assert [(s.id.prompt_id, step.index) for s, step in found.steps] == [("loud", 0), ("faint", 0)]
    assert [s.id.prompt_id for s in found.samples] == ["loud", "faint"]
    fewest = compared(faint, loud, sample("calm", (RIGHT, RIGHT), (RIGHT, WRONG)), num_samples=1, num_steps=1)
    assert ([s.id.prompt_id for s in fewest.samples], [s.id.prompt_id for s, _ in fewest.steps]) == (["loud"], ["loud"])
    assert fewest.facts["num_samples"] == 3


VOICES = st.sampled_from([RIGHT, WRONG, SILENT, Opinion(None, None, "not_asked", False)])
RESPONSES = st.lists(st.lists(st.tuples(VOICES, VOICES, VOICES), min_size=1, max_size=5), max_size=8)


@given(RESPONSES)
@settings(deadline=None)
def test_counted_by_pattern_as_step_by_step(responses: list[list[tuple[Opinion, Opinion, Opinion]]]):
    samples = [
        JudgedSample(
            SampleId(1, f"p{k}", 0), "?", "7", None, 0,
            tuple(
                JudgedStep(i, "s", {"a": a, "b": b}, {"t": t}, i == len(steps) - 1) for i, (a, b, t) in enumerate(steps)
            ),
            {},
        )
        for k, steps in enumerate(responses)
    ]  # fmt: skip
    steps = [step for one in samples for step in one.steps if not step.is_last]
    facts = compare_judges([samples[:3], samples[3:]], 5, 5).facts
    assert facts["num_steps"] == len(steps) and facts["num_samples"] == len(samples)
    if not samples:
        return
    labels = {name: [step.opinions[name].label for step in steps] for name in ("a", "b")}
    assert facts["pairs"] == pair_quality(labels)
    for name in ("a", "b"):
        asked = [step for step in steps if step.opinions[name].is_asked]
        truth = [step.truths["t"].label for step in asked]
        assert facts["truth"]["t"][name] == truth_quality([step.opinions[name].label for step in asked], truth)
        assert facts["num_not_asked"][name] == len(steps) - len(asked)


class Tags(HTMLParser):
    """Notes ids and links, and that every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids |= {values["id"]} if values.get("id") else set()  # type: ignore[arg-type]
        self.links |= {values["href"]} if values.get("href") else set()  # type: ignore[arg-type]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_is_whole_escaped_and_leads_to_its_own_parts():
    quiet, loud = sample("<q>", (RIGHT, RIGHT), (RIGHT, WRONG)), sample("l#1", (RIGHT, WRONG), (SILENT, RIGHT))
    page = disagreement_page("run <1>", compared(loud, quiet))
    tags = Tags()
    tags.feed(page)
    assert not tags.open
    assert tags.links == {f"#{id_}" for id_ in tags.ids} == {"#sample-1"}
    assert "is l#1 < 1 & so on?" in tags.texts and "step 0 of <l#1>" in tags.texts and "<raw>" in tags.texts
    assert "is <q> < 1 & so on?" not in tags.texts  # nobody disputes it
    assert "timeout" in tags.texts
    assert any("1 of 2 steps (50.0 %) are disputed, in 1 of 2 judged responses" in text for text in tags.texts)
    assert "http" not in page


def test_a_page_without_a_quarrel():
    tags = Tags()
    tags.feed(disagreement_page("run", compared(sample("q", (RIGHT, RIGHT), (WRONG, WRONG)))))
    assert "No step is disputed." in tags.texts
    tags.feed(disagreement_page("run", compared()))
    assert not tags.open


def test_a_finished_run_is_read_as_its_report_counts_it(finished_run: Any):
    directory, judges = finished_run.directory, finished_run.reports[1]["judges"]
    thresholds = {"llm": 0.5, "prm": 0.5}
    shards = judged_shards(directory, read_manifest(directory), 1, ["llm", "prm"], ["truth"], thresholds)
    found = compare_judges(shards, 1000, 20)
    facts = found.facts
    assert facts["num_disputed"] > 0
    assert facts["num_disputed"] == facts["pairs"]["llm+prm"]["num_disputed"]
    said = {pair.replace(" ", ""): of_pair for pair, of_pair in judges["agreement"].items()}
    (agreed,) = said.values()
    assert facts["pairs"]["llm+prm"]["kappa"] == pytest.approx(agreed["kappa"])
    assert facts["pairs"]["llm+prm"]["agreement"] == pytest.approx(agreed["agreement"])
    for judge in ("llm", "prm"):
        counted = judges["quality"][judge]["truth"]["steps"]
        for measure in ("precision", "recall"):
            assert facts["truth"]["truth"][judge][measure] == pytest.approx(counted[measure])
    assert [s.dispute for s in found.samples] == sorted((s.dispute for s in found.samples), reverse=True)
    assert len(found.samples) == facts["num_disputed_samples"]


def test_the_command(
    finished_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", "200")
    page = tmp_path / "pages" / "round.html"
    samples = run_disagreements(finished_run.directory, 1, 1, page, as_json=False).samples
    shown = capsys.readouterr().out
    first = samples[0]
    assert f"{first.id.prompt_id} sample {first.id.sample}   gold answer: {first.gold}" in shown
    assert "llm+prm: agree on" in shown and "llm against truth: precision" in shown
    assert shown.count("question:") == 1
    assert first.question in page.read_text() and str(page) in shown
    run_disagreements(finished_run.directory, 1, 2, None, as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert [row["id"]["prompt_id"] for row in facts["samples"]] == [s.id.prompt_id for s in samples[:2]]
    assert facts["pairs"]["llm+prm"]["num_disputed"] == facts["num_disputed"]


def test_a_round_that_was_not_judged_and_judges_that_are_none(finished_run: Any):
    with pytest.raises(RunDirectoryError, match="verdicts of 0 judges"):
        run_disagreements(finished_run.directory, 9, 1, None, as_json=False)
    with pytest.raises(RunDirectoryError, match=r"verdicts of 1 judges \(llm\)"):
        run_disagreements(finished_run.directory, 1, 1, None, ["llm"], as_json=False)
    with pytest.raises(ConfigError, match="no judge 'who'"):
        run_disagreements(finished_run.directory, 1, 1, None, ["llm", "who"], as_json=False)


def test_a_judge_is_measured_on_the_steps_it_was_asked_about():
    def judged(index: int, llm: Opinion, prm: Opinion, truth: Opinion) -> JudgedStep:
        return JudgedStep(index, "s", {"llm": llm, "prm": prm}, {"truth": truth}, False)

    unasked = opinion(Verdict(SampleId(1, "p", 0), 0, "llm", "v", VerdictStatus.NOT_ASKED), None)
    assert (unasked.label, unasked.words, unasked.is_asked) == (None, "not_asked", False)
    steps = (judged(0, RIGHT, RIGHT, RIGHT), judged(1, unasked, WRONG, RIGHT), judged(2, SILENT, RIGHT, RIGHT))
    facts = compared(JudgedSample(SampleId(1, "p", 0), "q", "1", None, 0, steps, {})).facts
    assert facts["num_not_asked"] == {"llm": 1, "prm": 0}
    assert facts["truth"]["truth"]["llm"]["recall"] == 0.5  # one of the two it was asked about: silence is a miss
    assert facts["truth"]["truth"]["prm"]["recall"] == pytest.approx(2 / 3)
    assert facts["pairs"]["llm+prm"]["num_steps"] == 1
