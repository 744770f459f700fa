"""The pages of ``paper_tables.py``: tables, figures, and what became of the paper's claims. All from the raw numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from paper_arms import (
    BCPG,
    CONTROL,
    FOLLOWED,
    HEADLINE,
    NSA,
    PAPERS,
    PLAIN,
    RFT,
    RULES,
    SETS,
    Points,
    Titled,
    equal_name,
    method_of,
    rule_arm,
    share_name,
)
from paper_store import Numbers

from bcpg_cluster.config.run import Config
from bcpg_cluster.watch.report.comparison_report import START, ArmResult, compare, markdown_table, write_plot
from bcpg_cluster.watch.report.plots import write_lines_plot
from bcpg_cluster.watch.report.statistics import Interval, PairedDifference, mean_interval, paired_test

MEASURES = {"sampled": "accuracy", "greedy": "accuracy_greedy"}
Place = tuple[str, int]
"""An arm at a round."""
Line = list[tuple[float, Place]]


class Values:
    """Accuracy by arm, round and seed."""

    def __init__(self, results: Iterable[ArmResult]) -> None:
        self._reports = {(r.arm, r.round, r.seed): r.report for r in results if r.report is not None}

    def by_seed(self, place: Place, key: str) -> dict[int, float]:
        """Each seed's value where there is one."""
        found = {seed: getattr(report, key) for (*at, seed), report in self._reports.items() if (*at,) == place}
        return {seed: value for seed, value in found.items() if value is not None}

    def mean(self, place: Place, key: str) -> Interval | None:
        """Over seeds."""
        values = self.by_seed(place, key)
        return mean_interval([*values.values()]) if values else None

    def difference(self, place: Place, other: Place, key: str) -> PairedDifference | None:
        """Paired by seed, over the seeds that both have."""
        ours, theirs = self.by_seed(place, key), self.by_seed(other, key)
        shared = sorted(ours.keys() & theirs.keys())
        return paired_test([ours[s] for s in shared], [theirs[s] for s in shared]) if shared else None


# --- the pages of the sets


def write_set(name: str, arms: Sequence[Titled], numbers: Numbers, seeds: Sequence[int], at: Points, out: Path) -> None:
    """``<set>.md`` and its pictures; nothing where no arm was run yet."""
    part, titles = SETS[name], {START: "start", **{arm.name: title for arm, title in arms}}
    last = max(arm.rounds for arm, _ in arms)
    results = numbers.results(titles, seeds, last)
    if not any(result.round for result in results):
        return
    reference = part.reference if any(r.arm == part.reference for r in results) else results[-1].arm
    table = compare(results, reference, titles=titles)
    write_plot(table, out / f"{name}.png")
    lines = [f"# {part.question}", "", markdown_table(table), ""]
    lines += {
        "labels": lambda: mined(results, titles),
        "rules": lambda: rule_page(results, at, out) + mined(results, titles),
        "rounds": lambda: round_page(results, at, numbers, out),
        "shares": lambda: share_page(results, at, out),
    }.get(name, list)()
    (out / f"{name}.md").write_text("\n".join([*lines, "", *ending(numbers, arms, seeds)]) + "\n")


def ending(numbers: Numbers, arms: Sequence[Titled], seeds: Sequence[int]) -> list[str]:
    """What is missing, what was tuned, and on what machines it was made."""
    missing = [f"{arm.name} (seed {s})" for arm, _ in arms for s in seeds if not numbers.has(arm.name, s, arm.rounds)]
    methods = {arm.tuned_as for arm, _ in arms} & numbers.chosen.keys()
    lines = [f"Not run yet: {', '.join(missing)}.", ""] if missing else []
    lines += ["| method | learning rate | epochs | validation sampled / greedy | tried |", "|---|---|---|---|---|"]
    for method in sorted(name for name in methods if name is not None):
        said = numbers.chosen[method]
        tried, chosen = said["validation"], (said["learning_rate"], said["epochs"])
        best = next((row for row in tried if (row["learning_rate"], row["epochs"]) == chosen), None)
        text = "–" if best is None else f"{percent(best['sampled'])} / {percent(best['greedy'])}"
        lines.append(f"| {method} | {chosen[0]:g} | {chosen[1]} | {text} | {len(tried) or 'taken as it is'} |")
    machines = {run["machine"] for run in numbers.runs.values()}
    for index in sorted(machines):
        facts = numbers.machines[index]
        made = f"Commit {facts['commit']}, {facts['device']}, {facts['cores']} cores, load at the start "
        made += f"{', '.join(map(str, facts['load_average']))}; Python {facts['python']}, "
        lines += ["", made + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()) + "."]
    return lines


def percent(value: float | None) -> str:
    """With one decimal."""
    return "–" if value is None else f"{100 * value:.1f}"


def shown(value: Interval | None) -> str:
    """Mean ± half of the interval, in percent."""
    if value is None:
        return "–"
    return percent(value.mean) + ("" if value.half_width is None else f" ± {100 * value.half_width:.1f}")


def mined(results: list[ArmResult], titles: dict[str, str]) -> list[str]:
    """How much was mined, how much of the gradient mass that is, and how right it was: means over seeds."""
    columns = ("mined_share", "mined_gradient_share", "consensus_precision", "consensus_recall")
    lines = ["| labels | tokens mined | of the gradient mass | precision | recall |", "|---|---|---|---|---|"]
    for arm in dict.fromkeys(r.arm for r in results if r.arm not in (START, PLAIN)):
        reports = [r.report for r in results if r.arm == arm and r.report is not None]
        cells = []
        for column in columns:
            values = [value for report in reports if (value := getattr(report, column, None)) is not None]
            cells.append(f"{100 * sum(values) / len(values):.1f} %" if values else "–")
        lines.append(f"| {titles[arm]} | {' | '.join(cells)} |")
    return [
        *lines,
        "",
        "Tokens of wrong answers; precision and recall of the labels by the truth that the configuration measures with.",
    ]


def draw(values: Values, path: Path, xlabel: str, lines: dict[str, Line]) -> None:
    """Sampled and greedy accuracy over x, as two pictures."""
    for name, key in MEASURES.items():
        series = {
            title: [(x, mean) for x, place in line if (mean := values.mean(place, key)) is not None]
            for title, line in lines.items()
        }
        write_lines_plot(series, path.with_name(f"{path.name}-{name}.png"), xlabel, f"{name} accuracy, %")


def grid(values: Values, head: str, lines: dict[str, Line]) -> list[str]:
    """Sampled / greedy by x, one row a line."""
    xs = [x for x, _ in next(iter(lines.values()))]
    rows = [f"| {head} | " + " | ".join(f"{x:g}" for x in xs) + " |", "|" + "---|" * (len(xs) + 1)]
    for title, line in lines.items():
        cells = [" / ".join(shown(values.mean(place, key)) for key in MEASURES.values()) for _, place in line]
        rows.append(f"| {title} | " + " | ".join(cells) + " |")
    return [*rows, "", "Sampled / greedy, mean ± half of the 95 % interval over seeds."]


def rule_name(rule: str, beta: float, noise: float) -> str:
    """The arm of true labels."""
    return PLAIN if beta == 1 else f"truth-{rule}-beta{beta:g}-noise{noise:g}"


def rule_lines(rule: str, at: Points) -> dict[str, Line]:
    """One line a noise, over beta."""
    betas = (1.0, *at.betas)
    return {
        f"{rule}, {100 * noise:g} % flipped": [(beta, (rule_name(rule, beta, noise), 1)) for beta in betas]
        for noise in at.noises
    }


def rule_page(results: list[ArmResult], at: Points, out: Path) -> list[str]:
    """Figure 2 for both rules, and the best beta as labels get worse."""
    values, lines = Values(results), []
    for rule in RULES:
        draw(values, out / f"rules-{rule}", "β", rule_lines(rule, at))
        lines += [*grid(values, "labels by β", rule_lines(rule, at)), ""]
        best = {noise: best_beta(values, rule, noise, at) for noise in at.noises}
        found = [f"{100 * x:g} % flipped: {'–' if beta is None else f'{beta:g}'}" for x, beta in best.items()]
        lines += [f"Best β by sampled accuracy, {rule} labels, {', '.join(found)}.", ""]
    return lines


def best_beta(values: Values, rule: str, noise: float, at: Points) -> float | None:
    """Of the highest mean sampled accuracy; 1 is mining nothing."""
    means = {b: values.mean((rule_name(rule, b, noise), 1), "accuracy") for b in (1.0, *at.betas)}
    known = {beta: mean.mean for beta, mean in means.items() if mean is not None}
    return max(known, key=lambda beta: known[beta]) if len(known) == len(means) else None


def gain_as_labels_get_worse(values: Values, rule: str, key: str, at: Points) -> PairedDifference | None:
    """How much more the highest β below 1 gains on the headline's with the most labels flipped than with the fewest.

    A difference of two differences, paired by seed; ``None`` where one of the four arms was not run, or there is but one β or
    share of flips to compare.
    """
    high, few, many = max(at.betas), min(at.noises), max(at.noises)

    def gains(noise: float) -> dict[int, float]:
        above, below = (values.by_seed((rule_name(rule, beta, noise), 1), key) for beta in (high, HEADLINE))
        return {seed: above[seed] - below[seed] for seed in above.keys() & below.keys()}

    at_many, at_few = gains(many), gains(few)
    shared = sorted(at_many.keys() & at_few.keys())
    if high == HEADLINE or few == many or not shared:
        return None
    return paired_test([at_many[s] for s in shared], [at_few[s] for s in shared])


def round_page(results: list[ArmResult], at: Points, numbers: Numbers, out: Path) -> list[str]:
    """Accuracy by round, at own settings and at one for all."""
    values, tuned, lines = Values(results), numbers.tuned(), []
    own = {name: name for name in at.of_main(*FOLLOWED, PAPERS)}
    equal = {name: equal_name(name, tuned) for name in at.of_main(*FOLLOWED)}
    for kind, arms in (("own", own), ("equal", equal)):
        of_kind: dict[str, Line] = {
            method_of(name).title: [(0.0, (START, 0)), *((float(r), (arm, r)) for r in range(1, at.rounds + 1))]
            for name, arm in arms.items()
        }
        draw(values, out / f"rounds-{kind}", "round", of_kind)
        lines += [f"At {kind} learning rates and epochs:", "", *grid(values, "method by round", of_kind), ""]
    return lines


def share_page(results: list[ArmResult], at: Points, out: Path) -> list[str]:
    """Accuracy over the share of the data."""
    lines: dict[str, Line] = {
        method_of(name).title: [(100 * s, (share_name(name, s), 1)) for s in (*at.shares, 1.0)]
        for name in at.of_main(NSA, BCPG, RFT)
    }
    values = Values(results)
    draw(values, out / "shares", "share of the offline set, %", lines)
    return grid(values, "method by % of the data", lines)


# --- what became of the paper's claims


@dataclass(frozen=True)
class Claim:
    """``place`` is ahead of ``other``."""

    text: str
    place: Place
    other: Place


def claims(config: Config, at: Points, numbers: Numbers) -> list[Claim]:
    """In the paper's order, then what the issue adds."""
    own_rule = next(judge.rule for judge in config.judges.values() if judge.role == "measure")
    truth = rule_arm(config, own_rule, HEADLINE, 0.0)[0].name
    ours = method_of(NSA).title
    against = [BCPG, RFT, "topr", "dpo", "grpo_offline", "weighted_reinforce", CONTROL, f"bcpg_prefix@{HEADLINE:g}"]
    found = [Claim(f"{ours} ahead of {method_of(name).title}", (NSA, 1), (name, 1)) for name in against]
    found += [
        Claim(f"{method_of(BCPG).title} ahead of {method_of(RFT).title}", (BCPG, 1), (RFT, 1)),
        Claim("the control gains: ahead of the start", (CONTROL, 1), (START, 0)),
        Claim("a negative β ahead of the paper's 0.5", (NSA, 1), (PAPERS, 1)),
        *(Claim(f"consensus ahead of {name} alone", (NSA, 1), (f"labels-{name}", 1)) for name in config.voters),
        Claim("consensus ahead of a majority of 3", (NSA, 1), ("labels-majority", 1)),
        Claim("true labels ahead of the judges'", (truth, 1), (NSA, 1)),
        Claim("wrong answers alone teach (Table 1): ahead of the start", ("sft_wrong", 1), (START, 0)),
    ]
    for share in at.shares:
        of_data = f"{ours} with {100 * share:g} % of the data ahead of RFT with all of it"
        found.append(Claim(of_data, (share_name(NSA, share), 1), (RFT, 1)))
    found.append(Claim(f"{ours}: round 1 ahead of the start", (NSA, 1), (START, 0)))
    for round_ in range(2, at.rounds + 1):
        found.append(Claim(f"{ours}: round {round_} ahead of round {round_ - 1}", (NSA, round_), (NSA, round_ - 1)))
    tuned = numbers.tuned()
    for name in (BCPG, RFT):
        text, last = f"after round {at.rounds} ahead of {method_of(name).title}", at.rounds
        found.append(Claim(f"{text}, own settings", (NSA, last), (name, last)))
        found.append(Claim(f"{text}, equal settings", (NSA, last), (equal_name(name, tuned), last)))
    for name in (NSA, BCPG, RFT):
        text = f"{method_of(PAPERS).title} after round {at.rounds} ahead of {method_of(name).title}, own settings"
        found.append(Claim(text, (PAPERS, at.rounds), (name, at.rounds)))
    return found


def verdict(difference: PairedDifference | None) -> str:
    """What an interval says of "ahead"."""
    if difference is None:
        return "not run"
    if difference.low is None or difference.high is None:
        return "one seed says nothing"
    if difference.p_value is None:
        return "the same in every seed"
    return "**yes**" if difference.low > 0 else "**no, behind**" if difference.high < 0 else "not separable"


def difference_text(difference: PairedDifference | None) -> str:
    """In points, with interval and p."""
    if difference is None:
        return "–"
    text = f"{100 * difference.mean:+.1f}"
    if difference.low is not None and difference.high is not None:
        text += f" [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"
    return text + ("" if difference.p_value is None else f", p {difference.p_value:.3f}")


def write_claims(config: Config, numbers: Numbers, seeds: Sequence[int], at: Points, out: Path) -> None:
    """``claims.md``: the paper's claim, and what was found here, losses included."""
    every = {arm: arm for arm, _, _ in numbers.runs}
    values = Values(numbers.results(every, seeds, at.rounds))
    lines = ["# The paper's claims, here", ""]
    lines += ["| claim | sampled | | greedy | |", "|---|---|---|---|---|"]
    for claim in claims(config, at, numbers):
        found = [values.difference(claim.place, claim.other, key) for key in MEASURES.values()]
        cells = [cell for each in found for cell in (difference_text(each), verdict(each))]
        lines.append(f"| {claim.text} | {' | '.join(cells)} |")
    for rule in RULES:
        best = [best_beta(values, rule, noise, at) for noise in at.noises]
        known = [beta for beta in best if beta is not None]
        rises = known == sorted(known) and len(set(known)) > 1
        said = "not run" if len(known) < max(len(best), 2) else "**yes**" if rises else "**no**"
        text = ", ".join("–" if beta is None else f"{beta:g}" for beta in best)
        lines.append(f"| the best β rises as {rule} labels get worse | {text} | {said} | | |")
        gained = [gain_as_labels_get_worse(values, rule, key, at) for key in MEASURES.values()]
        cells = [cell for each in gained for cell in (difference_text(each), verdict(each))]
        text = f"β = {max(at.betas):g} gains on {HEADLINE:g} as {100 * max(at.noises):g} % of {rule} labels are flipped"
        lines.append(f"| {text} | {' | '.join(cells)} |")
    lines += [
        "",
        "Differences in points, paired by seed, with the 95 % t interval and the two-sided p of the paired t test, not corrected "
        f"for their number; seeds {', '.join(map(str, seeds))}. Yes and no are said where the interval leaves 0 out. The best β is "
        f"the one of the highest mean sampled accuracy, for flip rates {', '.join(f'{100 * x:g} %' for x in at.noises)}.",
    ]
    (out / "claims.md").write_text("\n".join(lines) + "\n")
