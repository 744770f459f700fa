"""The page that shows where judges disagree: one HTML file without scripts, fonts or links to elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from bcpg_cluster.records import SampleId
from bcpg_cluster.watch.report.disagreement import (
    Disagreement,
    JudgedSample,
    JudgedStep,
    Opinion,
    truth_title,
)

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --dim: #646a73; --page: #fff; --card: #f6f7f9; --line: #d9dce1;
  --right: #1a7f37; --right-bg: #dcf4e3; --wrong: #b3261e; --wrong-bg: #fbe3e1; --hot: #c77700; --hot-bg: #fff5e0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --dim: #9aa1ab; --page: #15171a; --card: #1d2024;
  --line: #363b42; --right: #6fd18b; --right-bg: #143321; --wrong: #ff9d94; --wrong-bg: #45191a; --hot: #ffb74d;
  --hot-bg: #33270f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.25rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; } p { margin: .25rem 0 .75rem; } .dim { color: var(--dim); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid var(--line); }
th { color: var(--dim); font-weight: 600; font-size: .85rem; } td.number, th.number { text-align: right; white-space: nowrap; }
td.text { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 16rem; font: 13px/1.5 ui-monospace, monospace; }
td.opinion span { display: inline-block; max-width: 11rem; } .numbers { width: auto; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 1rem 1.25rem;
  margin: 1rem 0; }
.question { white-space: pre-wrap; overflow-wrap: anywhere; } a { color: inherit; }
tr.disputed { background: var(--hot-bg); } tr.disputed td:first-child { box-shadow: inset 3px 0 var(--hot); }
.right, .wrong, .none { border-radius: 4px; padding: .1rem .4rem; font-size: .85rem; }
.right { color: var(--right); background: var(--right-bg); } .wrong { color: var(--wrong); background: var(--wrong-bg); }
.none { color: var(--dim); border: 1px dashed var(--line); }
details { margin-top: .75rem; } summary { cursor: pointer; color: var(--dim); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--page); border: 1px solid var(--line);
  border-radius: 6px; padding: .6rem; font-size: 12px; }
"""

_RAW_CHARACTERS = 4000  # of one answer of a judge; whole ones are in the tables


NUM_SAMPLES = 50
"""Samples that a page shows in full."""
NUM_STEPS = 20
"""Lines in a page's list of steps."""


def disagreement_page(title: str, found: Disagreement) -> str:
    """The page: how much the judges disagree, the most disputed steps, and the most disputed samples in full.

    Args:
        title: names run and round.
        found: with the ``NUM_SAMPLES`` and ``NUM_STEPS`` most disputed samples and steps.
    """
    facts, shown = found.facts, found.samples[:NUM_SAMPLES]
    anchors = {sample.id: f"sample-{place}" for place, sample in enumerate(shown, start=1)}
    share = f" ({_percent(facts['num_disputed'] / facts['num_steps'])})" if facts["num_steps"] else ""
    lead = (
        f"{facts['num_disputed']} of {facts['num_steps']} steps{share} are disputed, in {facts['num_disputed_samples']} of "
        f"{facts['num_samples']} judged responses. Last steps, which are never mined, are not counted."
    )
    body = [
        f"<h1>Where the judges disagree</h1><p class=dim>{escape(title)}</p><p>{escape(lead)}</p>",
        _pairs(facts["pairs"]),
        *(_truth(measure, of_judges) for measure, of_judges in facts["truth"].items()),
        _steps(found.steps[:NUM_STEPS], anchors),
        f"<h2>Responses, the most disputed first ({len(shown)} shown)</h2>",
        *(_sample(sample, anchors[sample.id]) for sample in shown),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Disagreement: {escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _pairs(pairs: dict[str, Any]) -> str:
    rows = [
        [
            pair,
            str(facts["num_steps"]),
            str(facts["num_disputed"]),
            _percent(facts["agreement"]),
            _kappa(facts["kappa"]),
        ]
        for pair, facts in pairs.items()
    ]
    return "<h2>Judge against judge</h2>" + _numbers(["judges", "steps", "disputed", "agreement", "kappa"], rows)


def _truth(measure: str, of_judges: dict[str, Any]) -> str:
    rows = [
        [judge, *(_percent(facts[key]) for key in ("precision", "recall", "f1", "accuracy")), _kappa(facts["kappa"])]
        for judge, facts in of_judges.items()
    ]
    header = ["judge", "precision", "recall", "F1", "accuracy", "kappa"]
    return f"<h2>Judge against {escape(measure)}</h2>" + _numbers(header, rows)


def _numbers(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    kinds = ["", *[" class=number"] * (len(header) - 1)]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, header, strict=True))
    lines = [
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    ]
    return f"<div class=wide><table class=numbers><tr>{head}</tr>{''.join(lines)}</table></div>"


def _steps(disputed: Sequence[tuple[JudgedSample, JudgedStep]], anchors: Mapping[SampleId, str]) -> str:
    if not disputed:
        return "<h2>The most disputed steps</h2><p>No step is disputed.</p>"
    lines = []
    for sample, step in disputed:
        name = escape(_name(sample))
        where = f'<a href="#{anchors[sample.id]}">{name}</a>' if sample.id in anchors else name
        text = step.text.strip()
        excerpt = text if len(text) <= 200 else f"{text[:200]} ..."
        lines.append(
            f"<tr><td class=number>{step.dispute:.2f}</td><td>{where}<br><span class=dim>step {step.index}</span></td>"
            f"<td class=text>{escape(excerpt)}</td>{_opinions(step)}</tr>"
        )
    head = f"<tr><th class=number>apart</th><th>where</th><th>step</th>{_judges(disputed[0][1])}</tr>"
    return f"<h2>The most disputed steps</h2><div class=wide><table>{head}{''.join(lines)}</table></div>"


def _sample(sample: JudgedSample, anchor: str) -> str:
    lines = []
    for step in sample.steps:
        kind = " class=disputed" if step.dispute else ""
        note = "<br><span class=dim>last</span>" if step.is_last else ""
        lines.append(
            f"<tr{kind}><td class=number>{step.index}{note}</td><td class=text>{escape(step.text.strip())}</td>"
            f"{_opinions(step)}</tr>"
        )
    head = f"<tr><th class=number>#</th><th>step</th>{_judges(sample.steps[0])}</tr>" if sample.steps else ""
    found = "none" if sample.found is None else sample.found
    return (
        f'<section id="{anchor}"><h3>{escape(_name(sample))}</h3>'
        f"<p class=question>{escape(sample.question)}</p>"
        f"<p class=dim>gold answer {escape(sample.gold)}, found {escape(found)}, policy version {sample.policy_version}, "
        f"{sample.num_disputed} of {len(sample.steps)} steps disputed</p>"
        f"<div class=wide><table>{head}{''.join(lines)}</table></div>{_raw(sample)}</section>"
    )


def _raw(sample: JudgedSample) -> str:
    parts = []
    for judge, answers in sample.raw.items():
        if answers:
            texts = "".join(
                f"<pre>{escape(text[:_RAW_CHARACTERS])}{' ...' if len(text) > _RAW_CHARACTERS else ''}</pre>"
                for text in answers
            )
            parts.append(f"<details><summary>what {escape(judge)} answered</summary>{texts}</details>")
    return "".join(parts)


def _judges(step: JudgedStep) -> str:
    truths = "".join(f"<th>{escape(truth_title(name))}</th>" for name in step.truths)
    return "".join(f"<th>{escape(name)}</th>" for name in step.opinions) + truths


def _opinions(step: JudgedStep) -> str:
    return "".join(_opinion(opinion) for opinion in (*step.opinions.values(), *step.truths.values()))


def _opinion(opinion: Opinion) -> str:
    kind = "none" if opinion.label is None else "right" if opinion.label else "wrong"
    words = escape(opinion.words.replace("_", " "))
    return f"<td class=opinion><span class={kind}>{words}</span></td>"


def _name(sample: JudgedSample) -> str:
    return f"{sample.id.prompt_id}, sample {sample.id.sample}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _kappa(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
