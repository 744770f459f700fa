"""The paper's comparisons in miniature, on the embedded task: who wins, with which labels, beta, rounds, data and judges.

    python benchmarks/paper_tables.py --seeds 5 --out runs/paper                   # everything, about an hour and a half
    python benchmarks/paper_tables.py --part methods beta --seeds 5 --out runs/paper  # in pieces, in any order
    python benchmarks/paper_tables.py --small --seeds 2 --out runs/paper-small      # a check that it all runs

What is done is not done again, so it can be stopped at any time. Every part writes ``<out>/<part>.md``, ``.json`` and a picture.
All parts share a seed's offline set (512 prompts x 8 samples, chains of 4 and 5 operations), the start and the test set (400
problems of 4 and 5 operations, and 200 of 6, longer than what is trained on). Learning rates: three for every method, chosen on
a validation split with data of another seed. Ablations of BCPG-NSA train at the rate chosen for it.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from measure import facts
from rich.console import Console

from bcpg_cluster.assets.chain.task import draw_chain
from bcpg_cluster.comparison.methods import METHODS, PAPER_METHODS
from bcpg_cluster.comparison.runner import Arm, Comparison, Setup
from bcpg_cluster.config.run import Config
from bcpg_cluster.prompts.files import write_prompts
from bcpg_cluster.records import Prompt
from bcpg_cluster.watch.report.comparison_report import START, ArmResult, compare, markdown_table, write_plot
from bcpg_cluster.watch.report.plots import write_lines_plot
from bcpg_cluster.watch.report.statistics import Interval, mean_interval
from bcpg_cluster_cli.runs.compare import make_setup, open_comparison

NSA, BCPG, RFT = "bcpg_nsa", "bcpg", "rft"


@dataclass(frozen=True)
class Points:
    """Where the lines of the figures have points."""

    betas: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25, 0.0, -0.25, -0.5, -1.0)
    flips: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    shares: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    rounds: int = 5


ALL = Points()
FEW = Points(betas=(1.0, 0.5, -0.5), flips=(0.0, 0.5), shares=(0.5, 1.0), rounds=2)
# The truth twice: one votes where an arm asks for it, the other measures everybody, also the consensus after flips.
ORACLE = "judges.oracle={kind: chain_truth, role: spare}"
TRUTH = ("judges.llm.role=spare", "judges.prm.role=spare", "judges.oracle.role=vote")
CAUSAL = (  # a third judge: the LLM judge once more, shown one step at a time
    "judges.llm_causal={kind: llm, model: embedded:chain/judge, prompt: embedded:compact, view: causal, max_tokens: 24, "
    "role: spare, pool: judge.llm, engine_args: ENGINE}"
)
SMALL = ("prompts.per_round=64", "generate.prompts_per_shard=32", "evaluate.num_prompts=40", "evaluate.num_samples=2")


@dataclass(frozen=True)
class Part:
    """One comparison.

    Attributes:
        question: what its table answers.
        arms: what is trained.
        tuned: methods whose learning rate is chosen first.
        present: writes what is beside the table, and returns further lines for the page.
        has_third_judge: whether it needs the judge that the others do not have, and so its own directory.
    """

    question: str
    arms: Callable[[Config, Points], list[tuple[Arm, str]]]
    tuned: tuple[str, ...]
    reference: str = NSA
    present: Callable[[list[ArmResult], Path, Points], list[str]] | None = None
    has_third_judge: bool = False


def method_arm(config: Config, name: str, **changes: Any) -> tuple[Arm, str]:
    """A method at its tuned rate, and its title."""
    method = METHODS[name]
    return Arm(name, method.settings(config), rate_of=name, **changes), method.title


def nsa_arm(config: Config, name: str, title: str, *settings: str) -> tuple[Arm, str]:
    """BCPG-NSA with further settings, at its own tuned rate."""
    return Arm(name, (*METHODS[NSA].settings(config), *settings), rate_of=NSA), title


def methods(config: Config, at: Points) -> list[tuple[Arm, str]]:
    """Table 3, and the extensions that are not in the paper."""
    return [method_arm(config, name) for name in PAPER_METHODS]


def extensions(config: Config, at: Points) -> list[tuple[Arm, str]]:
    """The objectives the paper does not have."""
    names = (NSA, BCPG, "asymre", "kto", "nft", "weighted_reinforce", "topr_nsa", "grpo_nsa")
    return [method_arm(config, name) for name in names]


def labels(config: Config, at: Points) -> list[tuple[Arm, str]]:
    """Tables 4 and 5: whose word a step is right by."""
    only = {name: [f"judges.{j}.role=spare" for j in ("llm", "prm") if j != name] for name in ("llm", "prm")}
    majority = ("judges.llm_causal.role=vote", "weigh.rule=majority")
    return [
        nsa_arm(config, NSA, "consensus of LLM and PRM"),
        nsa_arm(config, "labels-prm", "PRM only", *only["prm"]),
        nsa_arm(config, "labels-llm", "LLM judge only", *only["llm"]),
        nsa_arm(config, "labels-majority", "majority of 3", *majority),
        nsa_arm(config, "labels-truth", "the truth", *TRUTH),
    ]


def beta_arm(config: Config, beta: float, truth: bool) -> tuple[Arm, str]:
    """BCPG-NSA at another beta; the arms that other parts have keep their names."""
    title = f"β = {beta:g}, {'true' if truth else 'judge'} labels"
    if beta == 1:  # no token is mined: the labels do not matter
        return nsa_arm(config, "beta-1", "β = 1", "weigh.beta=1.0")
    if beta == 0.5:
        return nsa_arm(config, "labels-truth" if truth else NSA, title, *(TRUTH if truth else ()))
    name = f"beta-{'truth' if truth else 'judges'}-{beta:g}"
    return nsa_arm(config, name, title, f"weigh.beta={beta}", *(TRUTH if truth else ()))


def betas(config: Config, at: Points) -> list[tuple[Arm, str]]:
    """Figure 2: the weight of mined tokens, with judge labels and with true ones."""
    arms = [beta_arm(config, beta, truth) for truth in (False, True) for beta in at.betas]
    return list({arm.name: (arm, title) for arm, title in arms}.values())


def rounds(config: Config, at: Points) -> list[tuple[Arm, str]]:
    """Whether later rounds help."""
    return [method_arm(config, name, rounds=at.rounds) for name in (NSA, BCPG, RFT)]


def shares(config: Config, at: Points) -> list[tuple[Arm, str]]:
    """How much data it takes."""
    arms = []
    for name in (NSA, BCPG, RFT):
        arms.append(method_arm(config, name))
        for share in at.shares[:-1]:
            arm, title = method_arm(config, name, data_share=share)
            changed = Arm(f"{name}-share-{share:g}", arm.settings, arm.rate_of, data_share=share)
            arms.append((changed, f"{title}, {100 * share:g} % of the data"))
    return arms


def sft(config: Config, at: Points) -> list[tuple[Arm, str]]:
    """Table 1: what wrong responses alone teach."""
    return [(method_arm(config, RFT)[0], "SFT on right"), method_arm(config, "sft_wrong")]


def noise(config: Config, at: Points) -> list[tuple[Arm, str]]:
    """True labels, ever more of them turned over; BCPG at the same learning rate needs none."""
    arms = [(beta_arm(config, 1.0, False)[0], "β = 1 (no labels)")]
    for rate in at.flips:
        name = "labels-truth" if rate == 0 else f"flips-{rate:g}"
        arms.append(nsa_arm(config, name, f"{100 * rate:g} % flipped", *TRUTH, f"weigh.flip_rate={rate}"))
    return arms


# --- what stands beside the tables


def interval(results: Iterable[ArmResult], arm: str, round_: int = 1, key: str = "accuracy") -> Interval | None:
    """Over seeds, of one arm at one round."""
    reports = [r.report for r in results if r.arm == arm and r.round == round_ and r.report is not None]
    values = [getattr(report, key) for report in reports]
    return mean_interval(values) if values else None


def points(results: list[ArmResult], arms: Sequence[tuple[float, str, int]], key: str) -> list[tuple[float, Interval]]:
    """(x, interval) of (x, arm, round) where there is one."""
    found = [(x, interval(results, arm, round_, key)) for x, arm, round_ in arms]
    return [(x, value) for x, value in found if value is not None]


def draw(results: list[ArmResult], path: Path, xlabel: str, lines: dict[str, list[tuple[float, str, int]]]) -> None:
    """Sampled and greedy accuracy of some arms over x, as two pictures."""
    for key, name in (("accuracy", "sampled"), ("accuracy_greedy", "greedy")):
        series = {title: points(results, arms, key) for title, arms in lines.items()}
        write_lines_plot(series, path.with_name(f"{path.name}-{name}.png"), xlabel, f"{name} accuracy, %")


def present_betas(results: list[ArmResult], path: Path, at: Points) -> list[str]:
    """Figure 2."""

    def line(truth: bool) -> list[tuple[float, str, int]]:
        half = "labels-truth" if truth else NSA
        other = "truth" if truth else "judges"
        return [(b, {1.0: "beta-1", 0.5: half}.get(b, f"beta-{other}-{b:g}"), 1) for b in at.betas]

    draw(results, path, "β", {"judge labels": line(False), "true labels": line(True)})
    return []


def present_rounds(results: list[ArmResult], path: Path, at: Points) -> list[str]:
    """Accuracy by round."""
    lines = {
        METHODS[name].title: [(0.0, START, 0), *((float(r), name, r) for r in range(1, at.rounds + 1))]
        for name in (NSA, BCPG, RFT)
    }
    draw(results, path, "round", lines)
    return round_table(results, lines)


def round_table(results: list[ArmResult], lines: dict[str, list[tuple[float, str, int]]]) -> list[str]:
    """Sampled / greedy by x, one row a method."""
    xs = [x for x, _, _ in next(iter(lines.values()))]
    rows = ["| method | " + " | ".join(f"{x:g}" for x in xs) + " |", "|" + "---|" * (len(xs) + 1)]
    for title, arms in lines.items():
        cells = []
        for _, arm, round_ in arms:
            sampled, greedy = (interval(results, arm, round_, key) for key in ("accuracy", "accuracy_greedy"))
            cells.append("–" if sampled is None or greedy is None else f"{_shown(sampled)} / {_shown(greedy)}")
        rows.append(f"| {title} | " + " | ".join(cells) + " |")
    return [*rows, "", "Sampled / greedy accuracy after each round, mean ± half of the 95 % interval over seeds."]


def _shown(value: Interval) -> str:
    half = value.half_width
    return f"{100 * value.mean:.1f}" + ("" if half is None else f" ± {100 * half:.1f}")


def present_shares(results: list[ArmResult], path: Path, at: Points) -> list[str]:
    """Accuracy over the share of the data."""
    lines = {
        METHODS[name].title: [(100 * s, name if s == 1 else f"{name}-share-{s:g}", 1) for s in at.shares]
        for name in (NSA, BCPG, RFT)
    }
    draw(results, path, "share of the offline set, %", lines)
    return []


def present_noise(results: list[ArmResult], path: Path, at: Points) -> list[str]:
    """Accuracy over the flip rate."""
    nsa = [(100 * f, "labels-truth" if f == 0 else f"flips-{f:g}", 1) for f in at.flips]
    lines = {"β = 0.5": nsa, "β = 1": [(100 * f, "beta-1", 1) for f in at.flips]}
    draw(results, path, "labels flipped, %", lines)
    return mined(results)


def mined(results: list[ArmResult]) -> list[str]:
    """How much was mined and how right that was, by tokens, mean over seeds (Tables 4 and 5)."""
    lines = ["| labels | tokens mined | precision | recall |", "|---|---|---|---|"]
    for arm in dict.fromkeys(r.arm for r in results if r.arm not in (START, "beta-1")):
        reports = [r.report for r in results if r.arm == arm and r.report is not None]
        of_consensus = [r.judges.quality.get("consensus", {}) for r in reports if r.judges is not None]
        quality = [measures["truth"].tokens for measures in of_consensus if "truth" in measures]
        share = sum(report.mined_share or 0.0 for report in reports) / len(reports)
        cells = [
            f"{sum(values) / len(values):.3f}" if values else "–"
            for values in ([q.precision or 0.0 for q in quality], [q.recall or 0.0 for q in quality])
        ]
        lines.append(f"| {arm} | {100 * share:.1f} % | {cells[0]} | {cells[1]} |")
    return lines


PARTS = {
    "methods": Part("Which method learns most from the same offline data?", methods, PAPER_METHODS),
    "labels": Part(
        "Which labels mine best?",
        labels,
        (NSA,),
        present=lambda results, path, at: mined(results),
        has_third_judge=True,
    ),
    "beta": Part("Which weight of mined tokens is best?", betas, (NSA,), present=present_betas),
    "noise": Part("How right must the labels be?", noise, (NSA,), reference="beta-1", present=present_noise),
    "sft": Part("What do wrong responses alone teach?", sft, (RFT, "sft_wrong"), reference=RFT),
    "efficiency": Part("How much data does it take?", shares, (NSA, BCPG, RFT), present=present_shares),
    "rounds": Part("Do later rounds help?", rounds, (NSA, BCPG, RFT), present=present_rounds),
    "extensions": Part(
        "And the objectives the paper does not have?",
        extensions,
        (NSA, BCPG, "asymre", "kto", "nft", "weighted_reinforce", "topr_nsa", "grpo_nsa"),
    ),
}


FURTHER = ("extensions",)  # only when asked for


def draw_problems(folder: Path) -> dict[str, Path]:
    """Fresh problems, all different: chains of 4 and 5 operations to train and test on, and of 6 to see what carries over."""
    rng, taken = random.Random(20), set()
    files = {}
    for name, number, shortest, longest in (("test", 400, 4, 5), ("longer", 200, 6, 6), ("train", 4096, 4, 5)):
        prompts: list[Prompt] = []
        while len(prompts) < number:
            chain = draw_chain(rng, shortest, longest)
            if chain.question not in taken:
                taken.add(chain.question)
                prompts.append(Prompt(f"{name}-{len(prompts):05d}", chain.question, chain.answer))
        files[name] = write_prompts(folder / f"{name}.jsonl", prompts)
    return files


def setup_of(files: dict[str, Path], part: Part, arguments: argparse.Namespace) -> Setup:
    """The laptop's configuration on these problems."""
    settings = [f"prompts.train={files['train']}", f"prompts.test={files['test']}"]
    settings += [f"prompts.more_tests={{longer: {files['longer']}}}", ORACLE]
    settings += SMALL if arguments.small else ()
    if part.has_third_judge:
        engine = make_setup("laptop", settings, "1", 0, 1, None).config.judges["llm"].engine_args
        settings.append(CAUSAL.replace("ENGINE", json.dumps(engine)))
    rates = "3e-4" if arguments.small else arguments.learning_rates
    return make_setup("laptop", settings, rates, 20 if arguments.small else 200, arguments.seeds, 1000)


def run_part(name: str, comparison: Comparison, setup: Setup, at: Points, seeds: Sequence[int], out: Path) -> None:
    """Tune, train, measure; write the page after every seed."""
    part = PARTS[name]
    arms = part.arms(setup.config, at)
    for method in part.tuned:
        comparison.tune(method_arm(setup.config, method)[0])
    results: list[ArmResult] = []
    for seed in seeds:
        results.append(comparison.start(seed))
        for arm, _ in arms:
            results += comparison.run(arm, seed)
        write_page(name, results, {START: "start", **{arm.name: title for arm, title in arms}}, at, out)


def write_page(name: str, results: list[ArmResult], titles: dict[str, str], at: Points, out: Path) -> None:
    """``<part>.md``, ``.json`` and pictures."""
    part = PARTS[name]
    table = compare(results, part.reference, titles=titles)
    write_plot(table, out / f"{name}.png")
    further = part.present(results, out / name, at) if part.present is not None else []
    machine = facts()
    lines = [f"# {part.question}", "", markdown_table(table), "", *further, ""]
    lines.append(f"Commit {machine['commit']}, {machine['device']}, {machine['cores']} cores, {machine['versions']}.")
    (out / f"{name}.md").write_text("\n".join(lines) + "\n")
    raw = {"facts": machine, "comparison": table, "runs": [short(result) for result in results]}
    (out / f"{name}.json").write_text(json.dumps(raw, indent=1))


def short(result: ArmResult) -> dict[str, Any]:
    """A run without its answers problem by problem."""
    content = {field.name: getattr(result, field.name) for field in fields(result)}
    if result.report is not None:
        content["report"] = result.report.plain()
        for report in (content["report"], *content["report"].get("more_tests", {}).values()):
            report.pop("per_problem", None)
    return content


def main() -> None:
    """Run the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--part", nargs="+", choices=list(PARTS), default=[name for name in PARTS if name not in FURTHER]
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--learning-rates", default="3e-4,1e-3,3e-3")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"))
    parser.add_argument("--small", action="store_true", help="64 prompts, 40 problems, one learning rate, few points")
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    files = draw_problems(out / "prompts")
    console = Console()
    for has_third_judge in (False, True):  # started once each
        names = [name for name in arguments.part if PARTS[name].has_third_judge == has_third_judge]
        if not names:
            continue
        setup = setup_of(files, PARTS[names[0]], arguments)
        directory = out / ("three-judges" if has_third_judge else "two-judges")
        with open_comparison(directory, setup, "local", console, inline=False) as comparison:
            for name in names:
                run_part(name, comparison, setup, FEW if arguments.small else ALL, range(arguments.seeds), out)
                console.print(f"{name}: written to {out}/{name}.md", highlight=False)


if __name__ == "__main__":
    main()
