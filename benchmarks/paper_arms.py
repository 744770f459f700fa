"""The sets of arms of ``paper_tables.py``: what each of its tables compares. Sets share arms; an arm is trained once a seed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from bcpg_cluster.comparison.methods import METHODS, Method, parse_methods
from bcpg_cluster.comparison.setup import Arm, Tuned
from bcpg_cluster.config.run import Config

HEADLINE = -0.5
NSA, BCPG, RFT, CONTROL = f"bcpg_nsa@{HEADLINE:g}", "bcpg", "rft", "sft_all"
PAPERS = "bcpg_nsa@0.5"
"""The paper's weight of mined tokens."""
FOLLOWED = (NSA, BCPG, RFT, CONTROL)
"""Over rounds, at own and at equal settings."""
RULES = ("propagated", "local")
PLAIN = "no-labels"
"""The arm of beta 1: no token is mined, so it is one for all labels."""

Titled = tuple[Arm, str]
Chosen = dict[str, Tuned]


@dataclass(frozen=True)
class Points:
    """Where the tables have rows and the figures points.

    Attributes:
        betas: of mined tokens; 1 is :data:`PLAIN` and always there.
        noises: shares of true labels turned over.
    """

    main: str = (
        f"{CONTROL},{RFT},dpo,topr,grpo_offline,weighted_reinforce,{BCPG},{PAPERS},{NSA},bcpg_prefix@{HEADLINE:g}"
    )
    further: str = f"asymre,kto,nft,topr_nsa@{HEADLINE:g},grpo_nsa@{HEADLINE:g}"
    betas: tuple[float, ...] = (0.5, 0.0, -0.5, -1.0)
    noises: tuple[float, ...] = (0.0, 0.15, 0.3)
    shares: tuple[float, ...] = (0.125, 0.25, 0.5)
    rounds: int = 5

    def of_main(self, *names: str) -> tuple[str, ...]:
        """Those of these methods that the main set has: only they are followed over rounds and shares."""
        return tuple(name for name in names if name in self.main.split(","))


ALL = Points()
FEW = Points(
    main=f"{RFT},{NSA}",
    further=f"topr_nsa@{HEADLINE:g}",
    betas=(HEADLINE,),
    noises=(0.3,),
    shares=(0.5,),
    rounds=2,
)


@dataclass(frozen=True)
class ArmSet:
    """One comparison.

    Attributes:
        question: what its table answers.
        arms: what is trained, given the configuration and what was chosen for the methods.
        tuned: methods whose learning rate and epochs are chosen first.
        reference: the arm that differences are taken to.
    """

    question: str
    arms: Callable[[Config, Points, Chosen], list[Titled]]
    tuned: Callable[[Points], tuple[str, ...]]
    reference: str = NSA


def method_of(name: str) -> Method:
    """A method by the name the command line has for it."""
    return parse_methods(name)[0]


def method_arm(config: Config, name: str, *, rounds: int = 1) -> Titled:
    """A method as tuned for it, and its title."""
    method = method_of(name)
    return Arm(name, method.settings(config), tuned_as=name, rounds=rounds), method.title


def mining_arm(config: Config, name: str, title: str, *settings: str) -> Titled:
    """BCPG-NSA with further settings, at the learning rate and epochs chosen for :data:`NSA`."""
    return Arm(name, (*method_of(NSA).settings(config), *settings), tuned_as=NSA), title


def with_spares(config: Config) -> list[str]:
    """Further judges, none of which votes unless an arm says so: the truth by either rule, and a third judge."""
    measure = next(judge for judge in config.judges.values() if judge.role == "measure")
    settings = [f"judges.truth_{rule}={{kind: {measure.kind}, role: spare, rule: {rule}}}" for rule in RULES]
    first = config.voters[0]
    third = config.judges[first].model_dump(mode="json", exclude_unset=True) | {"role": "spare"}
    if third["kind"] == "llm":  # the same model, shown one step at a time
        third |= {"view": "causal", "max_tokens": 24, "pool": config.judge_pool(first)}
    return [*settings, f"judges.third={json.dumps(third)}"]


def voters(config: Config, *names: str) -> tuple[str, ...]:
    """Have these judges vote and no others."""
    of_config = [name for name, judge in config.judges.items() if judge.role == "vote"]
    changes = {name: "spare" for name in of_config if name not in names}
    changes |= {name: "vote" for name in names if name not in of_config}
    return tuple(f"judges.{name}.role={role}" for name, role in changes.items())


def truth(config: Config, rule: str) -> tuple[str, ...]:
    """Have the truth vote alone."""
    return voters(config, f"truth_{rule}")


def main_arms(config: Config, at: Points, chosen: Chosen) -> list[Titled]:
    """The paper's Table 3, with the control and what stands nearest to it."""
    return [method_arm(config, name) for name in at.main.split(",")]


def further_arms(config: Config, at: Points, chosen: Chosen) -> list[Titled]:
    """Objectives the paper does not have."""
    return [method_arm(config, name) for name in (NSA, *at.further.split(","))]


def label_arms(config: Config, at: Points, chosen: Chosen) -> list[Titled]:
    """Tables 4 and 5: whose word a step is right by."""
    own_rule = next(judge.rule for judge in config.judges.values() if judge.role == "measure")
    majority = (*voters(config, *config.voters, "third"), "weigh.rule=majority")
    return [
        (method_arm(config, NSA)[0], f"consensus of {' and '.join(config.voters)}"),
        *(mining_arm(config, f"labels-{name}", f"{name} only", *voters(config, name)) for name in config.voters),
        mining_arm(config, "labels-majority", "majority of 3", *majority),
        rule_arm(config, own_rule, HEADLINE, 0.0),
    ]


def rule_arm(config: Config, rule: str, beta: float, noise: float) -> Titled:
    """True labels by one of the rules, some of them turned over, at one beta."""
    if beta == 1:
        return mining_arm(config, PLAIN, "β = 1 (no labels)", "weigh.beta=1.0")
    title = f"truth, {rule}, β = {beta:g}" + (f", {100 * noise:g} % flipped" if noise else "")
    settings = (*truth(config, rule), f"weigh.beta={beta}", *((f"weigh.flip_rate={noise}",) if noise else ()))
    return mining_arm(config, f"truth-{rule}-beta{beta:g}-noise{noise:g}", title, *settings)


def rule_arms(config: Config, at: Points, chosen: Chosen) -> list[Titled]:
    """Figure 2, for both rules and labels of falling quality."""
    plain = rule_arm(config, RULES[0], 1.0, 0.0)
    return [plain, *(rule_arm(config, rule, beta, x) for rule in RULES for x in at.noises for beta in at.betas)]


def equal_name(name: str, chosen: Chosen) -> str:
    """The arm of a method that trains as :data:`NSA` was tuned; the method's own where that is the same."""
    return name if chosen.get(name) == chosen.get(NSA) else f"{name}-equal"


def round_arms(config: Config, at: Points, chosen: Chosen) -> list[Titled]:
    """Later rounds, at each method's own setting and at one for all; the paper's β at its own alone."""
    arms = [method_arm(config, name, rounds=at.rounds) for name in at.of_main(*FOLLOWED)]
    for arm, title in arms[1:]:
        equal = equal_name(arm.name, chosen)
        if equal != arm.name:
            arms.append((replace(arm, name=equal, tuned_as=NSA), f"{title}, tuned as {method_of(NSA).title}"))
    return arms + [method_arm(config, name, rounds=at.rounds) for name in at.of_main(PAPERS)]


def share_name(name: str, share: float) -> str:
    """The arm of a method on a share of the data."""
    return name if share == 1 else f"{name}-share-{share:g}"


def share_arms(config: Config, at: Points, chosen: Chosen) -> list[Titled]:
    """How much data it takes."""
    arms = []
    for name in at.of_main(NSA, BCPG, RFT):
        arm, title = method_arm(config, name)
        arms.append((arm, title))
        for share in at.shares:
            part = replace(arm, name=share_name(name, share), data_share=share)
            arms.append((part, f"{title}, {100 * share:g} % of the data"))
    return arms


def sft_arms(config: Config, at: Points, chosen: Chosen) -> list[Titled]:
    """Table 1: what wrong responses alone teach."""
    return [(method_arm(config, RFT)[0], "SFT on right"), method_arm(config, CONTROL), method_arm(config, "sft_wrong")]


SETS = {
    "main": ArmSet("Which method learns most from the same offline data?", main_arms, lambda at: tuple(at.main.split(","))),
    "sft": ArmSet("What do wrong responses alone teach?", sft_arms, lambda at: (RFT, CONTROL, "sft_wrong"), RFT),
    "labels": ArmSet("Which labels mine best?", label_arms, lambda at: (NSA,)),
    "shares": ArmSet("How much data does it take?", share_arms, lambda at: at.of_main(NSA, BCPG, RFT)),
    "rounds": ArmSet("Do later rounds help?", round_arms, lambda at: at.of_main(*FOLLOWED, PAPERS)),
    "rules": ArmSet("Which rule and which beta, as labels get worse?", rule_arms, lambda at: (NSA,), PLAIN),
    "further": ArmSet(
        "And the objectives the paper does not have?", further_arms, lambda at: (NSA, *at.further.split(","))
    ),
}  # fmt: skip
DEFAULT = tuple(name for name in SETS if name != "further")  # the others only when asked for

assert all(name in METHODS for name in (BCPG, RFT, CONTROL, "sft_wrong"))
