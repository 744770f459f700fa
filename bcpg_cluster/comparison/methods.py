"""The methods that `bcpg-cluster compare` knows: each is a handful of overrides of one configuration.

What a method changes is the objective, the weight of mined tokens and which steps are mined, nothing else: data, judges,
batches and schedule are the configuration's for all of them (learning rate and epochs are tuned for each, see
docs/compare.md). ``name@beta`` is a method that mines, at a stated weight of mined tokens: ``bcpg_nsa@-0.5``.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import yaml

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.train.objective import (
    AsymRe,
    Bcpg,
    Dpo,
    Grpo,
    Kto,
    Nft,
    Objective,
    Rft,
    Topr,
    WeightedReinforce,
)
from bcpg_cluster.stages.weigh.weights import Mine

PAPER_BETA = 0.5
"""Weight of mined tokens where the configuration has none of its own: the paper's main table."""

Overrides = tuple[str, ...]
"""``key.path=value`` as ``config.load.load_config`` takes them (values are YAML)."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to train on an offline data set.

    Attributes:
        name: as the command line says it, with ``@`` and beta where one is stated.
        title: as tables and plots say it.
        in_paper: whether it is a row of the paper's Table 3.
        needs: what it takes from the data set, in a few words.
        settings: the overrides that make a configuration train this way.
        mines: which right steps of wrong responses get the weight beta; ``None`` where it mines nothing.
    """

    name: str
    title: str
    in_paper: bool
    needs: str
    settings: Callable[[Config], Overrides]
    mines: Mine | None = None

    def at(self, beta: float) -> Method:
        """This method with a stated weight of mined tokens, in [-1, 1]. Only for methods that mine."""
        return replace(
            self,
            name=f"{self.name}@{beta:g}",
            title=f"{self.title}, β = {f'{beta:g}'.replace('-', '−')}",
            settings=lambda config: (*self.settings(config), f"weigh.beta={beta}"),
        )


def _overrides(beta: float, objective: Objective) -> Overrides:
    """All fields of the objective are stated, so that nothing of the configuration's own objective stays."""
    # Not JSON: a YAML 1.1 reader takes its 1e-05 for text.
    stated = yaml.safe_dump(asdict(objective), default_flow_style=True, sort_keys=False, width=float("inf")).strip()
    return (f"weigh.beta={beta}", f"objective={stated}")


def _nsa_beta(config: Config) -> float:
    """The configuration's beta if it is one of BCPG-NSA, else the paper's."""
    is_nsa = isinstance(config.objective, Bcpg) and config.weigh.beta < 1
    return config.weigh.beta if is_nsa else PAPER_BETA


def _mining(mine: Mine, objective: Callable[[Config], Objective]) -> Callable[[Config], Overrides]:
    """Settings of a method with mined tokens."""
    return lambda config: (*_overrides(_nsa_beta(config), objective(config)), f"weigh.mine={mine}")


def _bcpg(config: Config) -> Bcpg:
    """The configuration's BCPG options; the defaults where it trains with something else."""
    return config.objective if isinstance(config.objective, Bcpg) else Bcpg()


def _anchored_reinforce(config: Config) -> WeightedReinforce:
    """With the anchor of the configuration's BCPG, as far as it is of the same kind (on the sum over the sequence)."""
    bcpg = _bcpg(config)
    return WeightedReinforce(tau=bcpg.tau) if bcpg.tau_scale == "absolute" else WeightedReinforce()


def _plain(objective: Objective) -> Callable[[Config], Overrides]:
    """Settings of a method that knows no mined tokens and takes nothing from the configuration."""
    return lambda config: _overrides(1.0, objective)


_ALL = "right and wrong responses"
_JUDGED = "right and wrong responses, step verdicts on the wrong ones"

_KNOWN = (
    Method("rft", "RFT", True, "right responses", _plain(Rft())),
    Method("dpo", "DPO", True, "pairs of a right and a wrong response to one prompt", _plain(Dpo())),
    Method("topr", "TOPR", True, _ALL, _plain(Topr())),
    Method("grpo_offline", "GRPO-offline", True, _ALL, _plain(Grpo())),
    Method("bcpg", "BCPG", True, _ALL, lambda config: _overrides(1.0, _bcpg(config))),
    Method("bcpg_nsa", "BCPG-NSA", True, _JUDGED, _mining("consensus", _bcpg), "consensus"),
    Method("bcpg_prefix", "BCPG, prefix mined", False, _JUDGED, _mining("prefix", _bcpg), "prefix"),
    Method("asymre", "AsymRE", False, _ALL, _plain(AsymRe())),
    Method("kto", "KTO", False, "right and wrong responses, of at least two prompts", _plain(Kto())),
    Method("nft", "NFT", False, _ALL, _plain(Nft())),
    Method(
        "weighted_reinforce",
        "W-REINFORCE (anchored)",
        False,
        _ALL,
        lambda config: _overrides(1.0, _anchored_reinforce(config)),
    ),
    Method("topr_nsa", "TOPR + NSA", False, _JUDGED, _mining("consensus", lambda config: Topr()), "consensus"),
    Method("grpo_nsa", "GRPO-offline + NSA", False, _JUDGED, _mining("consensus", lambda config: Grpo()), "consensus"),
    # What any training on one's own samples does, whatever they are worth.
    Method("sft_all", "SFT on all (control)", False, _ALL, _plain(Rft(on="all"))),
    # The paper's Table 1, which is about another start model than its Table 3.
    Method("sft_wrong", "SFT on wrong", False, "wrong responses", _plain(Rft(on="wrong"))),
)

METHODS: dict[str, Method] = {method.name: method for method in _KNOWN}
"""Every method by name, the paper's first."""

PAPER_METHODS = tuple(method.name for method in _KNOWN if method.in_paper)
"""The methods of the paper's Table 3, in its order."""


def parse_methods(text: str) -> tuple[Method, ...]:
    """Read ``name,name@beta,...``; blanks around a name do not matter, the order stays.

    Raises:
        ConfigError: an unknown name (with those like it), an impossible beta, a method given twice, or none at all.
    """
    names = [name.strip() for name in text.split(",")]
    if not any(names):
        raise _bad(text, "it names no method", f"--methods {','.join(PAPER_METHODS)}")
    if not all(names):
        raise _bad(text, "a name is missing between two commas, or at an end", "remove the extra comma")
    methods = tuple(_method(text, name) for name in names)
    given = [method.name for method in methods]
    twice = [name for name in dict.fromkeys(given) if given.count(name) > 1]
    if twice:
        raise _bad(text, f"{', '.join(twice)} is given more than once", "name each method once")
    return methods


def _method(text: str, given: str) -> Method:
    """One method, at its own beta where ``@`` states one."""
    name, has_beta, beta = given.partition("@")
    if name not in METHODS:
        near = _near(name)
        remedy = f"did you mean {' or '.join(near)}?" if near else "take names from that list"
        raise _bad(text, f"unknown method {name!r}", remedy)
    method = METHODS[name]
    if not has_beta:
        return method
    if method.mines is None:
        mining = ", ".join(known.name for known in _KNOWN if known.mines is not None)
        raise _bad(text, f"{name} mines no tokens, so it has no beta", f"leave @{beta} out; {mining} take one")
    try:
        value = float(beta)
    except ValueError:
        value = math.nan
    if not -1 <= value <= 1:
        raise _bad(text, f"{given!r} states no weight of mined tokens", f"a number from -1 to 1, e.g. {name}@-0.5")
    return method.at(value + 0.0)  # -0 is 0


def _near(name: str) -> list[str]:
    """Known names that ``name`` may stand for: another spelling of one, the beginning of some, or a typing slip."""
    spelled = name.lower().replace("-", "_").replace(" ", "_").replace("+", "_")
    if spelled in METHODS:
        return [spelled]
    return [known for known in METHODS if known.startswith(f"{spelled}_")] or difflib.get_close_matches(
        spelled, METHODS, n=2
    )


def _bad(text: str, problem: str, remedy: str) -> ConfigError:
    return ConfigError(
        f"--methods {text!r}: {problem}",
        rule=f"comma-separated names, known: {', '.join(METHODS)}; those that mine may state beta, as in bcpg_nsa@-0.5",
        remedy=remedy,
    )
