"""The card of an exported policy: where it comes from, how good it is and how sure that is, and how to make it again. Pure.

Its YAML head is the hub's (https://huggingface.co/docs/hub/model-cards). Names that only mean something on the machine that made
the run are shortened to their last part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bcpg_cluster.config.judges import JudgeConfig
from bcpg_cluster.config.run import Config
from bcpg_cluster.prompts.hub import is_hub_id
from bcpg_cluster.prompts.table_files import is_table_file
from bcpg_cluster.store.manifest import ManifestState
from bcpg_cluster.store.reports import AccuracyReport, RoundReport, SampleAccount
from bcpg_cluster.watch.report.statistics import Z_95, share_interval

_NOT_RECORDED = "not recorded"
_FROM_BASE_CARD = ("license", "license_name", "license_link", "language")
_HYPER_PARAMETERS = ("objective", "weigh", "generate", "segment", "verify", "train")


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What the card says of the weights.

    Attributes:
        version: the round that trained them.
        dtypes: number of parameter values by dtype.
        has_chat_template: whether the policy can be chatted with.
        base_head: the YAML head of the card that came with the base model; its licence and language stay.
        licence: the person's, as the hub names it; without it the base's, if that says one.
    """

    version: int
    dtypes: Mapping[str, int]
    has_chat_template: bool
    base_head: Mapping[str, Any] = field(default_factory=dict)
    licence: str | None = None


def render_model_card(config: Config, state: ManifestState, facts: CardFacts) -> str:
    """The whole card, head and page."""
    sections = (_about, _results, _method, _data, _judges, _hyper_parameters, _versions, _again, _use)
    lines = [line for section in sections for line in (*section(config, state, facts), "")]
    return f"---\n{_head(config, state, facts).strip()}\n---\n\n" + "\n".join(lines)


def _head(config: Config, state: ManifestState, facts: CardFacts) -> str:
    """The YAML the hub reads."""
    from huggingface_hub import EvalResult, ModelCardData

    head = {key: facts.base_head[key] for key in _FROM_BASE_CARD if key in facts.base_head}
    if facts.licence:
        head = {key: value for key, value in head.items() if not key.startswith("license")} | {"license": facts.licence}
    report = state.reports.get(facts.version)
    test = config.prompts.test or "generated"
    results = [
        EvalResult(
            task_type="text-generation",
            task_name="problems of known answer",
            dataset_type=test if _is_hub_id(test) else "bcpg-cluster",
            dataset_name=public_name(test),
            metric_type="accuracy",
            metric_name=name,
            metric_value=round(100 * value, 2),
        )
        for name, value in _measured(report).items()
    ]
    data = ModelCardData(
        base_model=config.policy.model if _is_hub_id(config.policy.model) else None,
        datasets=sorted({source for source in _sources(config) if _is_hub_id(source)}) or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["bcpg-nsa", "reasoning", "offline-rl"],
        model_name=f"{config.name}-round-{facts.version}" if results else None,
        eval_results=results or None,
        **head,
    )
    return str(data.to_yaml())


def _measured(report: RoundReport | None) -> dict[str, float]:
    """The head's results by name."""
    if report is None:
        return {}
    found = {
        f"accuracy, mean of {report.samples_per_problem or 'several'} samples": report.accuracy,
        "accuracy, greedy": report.accuracy_greedy,
    }
    return {name: value for name, value in found.items() if value is not None}


def _is_hub_id(name: str) -> bool:
    """Whether a name is one of the hub's with its owner, which alone the card's head may hold."""
    path = Path(name)
    return "/" in name and is_hub_id(name) and not is_table_file(path) and not path.exists()


def public_name(source: str) -> str:
    """A model's or file's name as others may read it: of a path its last part."""
    scheme, named, path = source.partition("=")
    if named and scheme.startswith("task:"):
        return f"{scheme}={public_name(path)}"
    if _is_hub_id(source) or source.startswith(("embedded:", "task:")):
        return source
    return Path(source).name or source


def _sources(config: Config) -> list[str]:
    prompts = config.prompts
    return [source for source in (prompts.train, prompts.test, *prompts.more_tests.values()) if source]


# --- the page, section by section


def _about(config: Config, state: ManifestState, facts: CardFacts) -> list[str]:
    sizes = ", ".join(f"{number:,} {dtype}" for dtype, number in facts.dtypes.items())
    return [
        f"# {config.name}, round {facts.version}",
        "",
        f"The policy of run `{config.name}` after training round {facts.version} of bcpg-cluster, started from "
        f"`{public_name(config.policy.model)}`{_revision(config.policy.revision)}.",
        f"Parameters: {sizes}. Chat template: {'yes' if facts.has_chat_template else 'none came with the base model'}.",
        "`digests.json` has the sha256 of every parameter; they were checked when this directory was made.",
    ]


def _revision(revision: str | None) -> str:
    return "" if revision is None else f" at revision `{revision}`"


def _results(config: Config, state: ManifestState, facts: CardFacts) -> list[str]:
    lines = ["## Results", "", "Accuracy on test problems, with 95 % intervals over problems.", ""]
    rounds = sorted({0, facts.version, *(round_ for round_ in state.reports if round_ <= facts.version)})
    for name in (None, *config.prompts.more_tests):
        rows = [_accuracy_row(round_, _of_set(state.reports.get(round_), name)) for round_ in rounds]
        title = public_name(config.prompts.test or "generated problems") if name is None else name
        lines += [f"`{title}`:", "", *_table(("policy", "sampled", "greedy", "problems", "samples each"), rows), ""]
    last = state.reports.get(facts.version)
    gained = None if last is None else last.change_from_base.get("accuracy")
    if gained is not None:
        lines.append(f"Sampled, against the base on the same problems: {_points(gained.mean, gained.stderr)}.")
    return lines


def _of_set(report: RoundReport | None, name: str | None) -> AccuracyReport | None:
    """The report of a further test set, by name; without one of the run's own test problems."""
    return report if report is None or name is None else report.more_tests.get(name)


def _accuracy_row(round_: int, report: AccuracyReport | None) -> tuple[str, ...]:
    """``not measured`` where the round's evaluation is not done (a run that was stopped)."""
    name = "base" if round_ == 0 else f"round {round_}"
    if report is None:
        return name, "not measured", "", "", ""
    sampled = with_interval(report.accuracy, report.stderr)
    greedy = with_interval(report.accuracy_greedy, report.stderr_greedy)
    return name, sampled, greedy, str(report.num_problems), str(report.samples_per_problem or "-")


def with_interval(mean: float | None, stderr: float | None) -> str:
    """A share as ``67.1 % (64.5 to 69.6)``: the mean and its normal 95 % interval, which stays in [0, 100]."""
    if mean is None:
        return "-"
    if stderr is None:
        return f"{100 * mean:.1f} %"
    low, high = share_interval(mean, stderr)
    return f"{100 * mean:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _points(mean: float, stderr: float | None) -> str:
    if stderr is None:
        return f"{100 * mean:+.1f} points"
    return f"{100 * mean:+.1f} points ({100 * (mean - Z_95 * stderr):+.1f} to {100 * (mean + Z_95 * stderr):+.1f})"


def _method(config: Config, state: ManifestState, facts: CardFacts) -> list[str]:
    objective = (type(config.objective).__doc__ or config.objective.name).strip().splitlines()[0]
    lines = [
        "## Method",
        "",
        "Iterative offline reinforcement learning: each round draws answers from the policy, checks them, cuts wrong ones into "
        "steps, has judges say which steps are right, and trains on the whole round.",
        "",
        f"- objective `{config.objective.name}`: {objective}",
        f"- steps: `{config.segment.kind}`; a step counts as right by the judges' consensus `{config.weigh.rule}`; right tokens of "
        f"wrong answers weigh {config.weigh.beta:g} (beta) where they are mined (`{config.weigh.mine}`)",
        f"- answers are checked by `{config.verify.kind}`",
        "",
    ]
    rows = [
        _round_row(round_, report.samples, report)
        for round_, report in sorted(state.reports.items())
        if 0 < round_ <= facts.version
    ]
    names = ("round", "answers asked", "kept", "dropped", "tokens trained on", "steps", "mined share of wrong tokens")
    return lines + _table(names, rows)


def _round_row(round_: int, samples: SampleAccount | None, report: RoundReport) -> tuple[str, ...]:
    train = report.train
    dropped = (
        "-" if samples is None else ", ".join(f"{n} {reason}" for reason, n in samples.dropped.items() if n) or "0"
    )
    return (
        str(round_),
        "-" if samples is None else str(samples.asked),
        "-" if samples is None else str(samples.kept),
        dropped,
        "-" if train is None or train.tokens is None else f"{train.tokens:,.0f}",
        "-" if train is None else f"{train.steps:.0f}",
        _share(report.mined_share),
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _data(config: Config, state: ManifestState, facts: CardFacts) -> list[str]:
    lines = ["## Data", ""]
    noted = state.prompts or {}
    rows = [
        (key, f"`{public_name(found.source)}`", str(found.num_prompts), f"`{found.sha256}`", _skipped(found.skipped))
        for key, found in noted.items()
    ]
    if not rows:
        rows = [
            ("problems", f"`{public_name(source)}`", _NOT_RECORDED, _NOT_RECORDED, "") for source in _sources(config)
        ]
    lines += _table(("set", "source", "problems", "sha256 over ids, questions, answers", "left out"), rows)
    lines += ["", "Test problems are never trained on; a run that shares a question between the two does not start."]
    for imported in state.imports:
        lines.append(
            f"Round 1's {imported['num_samples']} responses to {imported['num_prompts']} problems were made elsewhere: "
            f"`{public_name(imported['source'])}`, sha256 `{imported['sha256']}`."
        )
    return lines


def _skipped(skipped: Mapping[str, int]) -> str:
    return "; ".join(f"{number} x {why}" for why, number in skipped.items()) or "0"


def _judges(config: Config, state: ManifestState, facts: CardFacts) -> list[str]:
    report = state.reports.get(facts.version)
    quality = {} if report is None or report.judges is None else report.judges.quality
    rows = []
    for name, judge in config.judges.items():
        measured = (
            [("", "", "others are measured by it")] if judge.role == "measure" else _quality_rows(quality.get(name, {}))
        )
        rows += [(f"`{name}`", *_judge_words(judge), *row) for row in measured]
    rows += [("consensus", "", "", "", "", *row) for row in _quality_rows(quality.get("consensus", {}))]
    names = ("judge", "role", "what", "rule", "threshold", "precision", "recall", "measured by")
    lines = [
        "## Judges",
        "",
        f"Precision and recall of the label `right`, by steps of wrong answers of round {facts.version}.",
        "",
        *_table(names, rows),
    ]
    agreement = {} if report is None or report.judges is None else report.judges.agreement
    pairs = [
        f"{pair} agree on {_share(found.agreement)} of {found.steps:.0f} steps"
        for pair, found in agreement.items()
        if found.agreement is not None
    ]
    return lines + (["", f"Agreement: {'; '.join(pairs)}."] if pairs else [])


def _judge_words(judge: JudgeConfig) -> tuple[str, str, str, str]:
    what = judge.kind if judge.model is None else f"{judge.kind}: `{public_name(judge.model)}`"
    what += f", {judge.votes} votes" if judge.votes > 1 else ""
    what += ", by P(right)" if judge.says == "probability" else ""
    what += f", after {' and '.join(f'`{name}`' for name in judge.after)}" if judge.after else ""
    return judge.role, what, judge.rule, "-" if judge.only_labels else f"{judge.threshold:g}"


def _quality_rows(by_measure: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    rows = [
        (
            _share(found.steps.precision),
            _share(found.steps.recall),
            f"`{measure}`, {found.steps.count:.0f} steps, {_share(found.steps.true_share)} right",
        )
        for measure, found in by_measure.items()
    ]
    return rows or [("not measured", "not measured", "-")]


def _hyper_parameters(config: Config, state: ManifestState, facts: CardFacts) -> list[str]:
    content = config.model_dump(mode="json", include=set(_HYPER_PARAMETERS))
    chosen: dict[str, Any] = {"seed": config.seed, "problems_per_round": config.prompts.per_round}
    chosen |= {section: _said(content[section]) for section in _HYPER_PARAMETERS}
    text = yaml.safe_dump(chosen, sort_keys=False, allow_unicode=True).rstrip()
    return ["## Hyper-parameters", "", "```yaml", text, "```"]


def _said(value: Any) -> Any:
    """A section without what is empty and without arguments of the person's own code; of paths their last part."""
    if isinstance(value, Mapping):
        kept = {key: item for key, item in value.items() if key != "options" and item not in (None, {}, [], "")}
        return {key: _said(item) for key, item in kept.items()}
    if isinstance(value, list):
        return [_said(item) for item in value]
    is_path = isinstance(value, str) and value.startswith(("/", "~", ".")) and "/" in value
    return public_name(value) if is_path else value


def _versions(config: Config, state: ManifestState, facts: CardFacts) -> list[str]:
    lines = ["## Versions", ""]
    if not state.made_with:
        program = (state.created or {}).get("program_version", "unknown")
        return [*lines, f"bcpg-cluster {program}; other packages and the machine: {_NOT_RECORDED}."]
    made = state.made_with[-1]
    lines += _table(("package", "version"), list(made.versions.items()))
    gpus = ", ".join(made.device.gpus) or "no GPU"
    cpu = made.device.cpu or made.device.architecture
    lines += ["", f"Machine: {cpu}, {made.device.num_cpus} processors, {gpus}.", ""]
    rows = [
        (key, f"`{public_name(found.source)}`", f"`{found.sha256 or 'not there'}`") for key, found in made.files.items()
    ]
    return lines + _table(("file or directory", "source", "sha256"), rows)


def _again(config: Config, state: ManifestState, facts: CardFacts) -> list[str]:
    identity = (state.created or {}).get("identity", "unknown")
    return [
        "## Making it again",
        "",
        f"The run's identity is `{identity}`: the digest of all keys of its config that decide results, the seed ({config.seed}) "
        "among them. With the run's directory:",
        "",
        "```sh",
        "bcpg-cluster reproduce check RUN_DIRECTORY",
        f"bcpg-cluster reproduce rerun RUN_DIRECTORY --rounds {facts.version}",
        "```",
        "",
        "The first says whether a machine can make it again and what differs there; the second makes it and compares tables and "
        "weights. Without the directory: the base model, the problems and the judges above, a config with these "
        f"hyper-parameters, and `bcpg-cluster iterate --rounds {facts.version}`.",
    ]


def _use(config: Config, state: ManifestState, facts: CardFacts) -> list[str]:
    return [
        "## Use",
        "",
        "```sh",
        "vllm serve THIS_DIRECTORY",
        "```",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        'model = AutoModelForCausalLM.from_pretrained("THIS_DIRECTORY")',
        'tokenizer = AutoTokenizer.from_pretrained("THIS_DIRECTORY")',
        "```",
    ]


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; ``none`` where it has no row."""
    if not rows:
        return ["none"]
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return lines + [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
