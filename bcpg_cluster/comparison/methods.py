"""The methods that `bcpg-cluster compare` knows: each is a handful of overrides of one configuration.

What a method changes is the objective and the weight of mined tokens, nothing else: data, judges, batches and schedule
are the configuration's for all of them (the learning rate is tuned for each, see docs/compare.md).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import asdict, dataclass

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

PAPER_BETA = 0.5
"""Weight of mined tokens where the configuration has none of its own: the paper's main table."""

Overrides = tuple[str, ...]
"""``key.path=value`` as ``config.load.load_config`` takes them (values are YAML)."""


@dataclass(frozen=True, slots=True)
class Method:
    """A way to train on an offline data set.

    Attributes:
        name: as the command line says it.
        title: as tables and plots say it.
        in_paper: whether it is a row of the paper's Table 3.
        needs: what it takes from the data set, in a few words.
        settings: the overrides that make a configuration train this way.
    """

    name: str
    title: str
    in_paper: bool
    needs: str
    settings: Callable[[Config], Overrides]


def _overrides(beta: float, objective: Objective) -> Overrides:
    """All fields of the objective are stated, so that nothing of the configuration's own objective stays."""
    # Not JSON: a YAML 1.1 reader takes its 1e-05 for text.
    stated = yaml.safe_dump(asdict(objective), default_flow_style=True, sort_keys=False, width=float("inf")).strip()
    return (f"weigh.beta={beta}", f"objective={stated}")


def _nsa_beta(config: Config) -> float:
    """The configuration's beta if it is one of BCPG-NSA, else the paper's."""
    is_nsa = isinstance(config.objective, Bcpg) and config.weigh.beta < 1
    return config.weigh.beta if is_nsa else PAPER_BETA


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
    Method("bcpg_nsa", "BCPG-NSA", True, _JUDGED, lambda config: _overrides(_nsa_beta(config), _bcpg(config))),
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
    Method("topr_nsa", "TOPR + NSA", False, _JUDGED, lambda config: _overrides(_nsa_beta(config), Topr())),
    Method("grpo_nsa", "GRPO-offline + NSA", False, _JUDGED, lambda config: _overrides(_nsa_beta(config), Grpo())),
    # The paper's Table 1, which is about another start model than its Table 3.
    Method("sft_wrong", "SFT on wrong", False, "wrong responses", _plain(Rft(on="wrong"))),
)

METHODS: dict[str, Method] = {method.name: method for method in _KNOWN}
"""Every method by name, the paper's first."""

PAPER_METHODS = tuple(method.name for method in _KNOWN if method.in_paper)
"""The methods of the paper's Table 3, in its order."""


def parse_methods(text: str) -> tuple[Method, ...]:
    """Read ``name,name,...``; blanks around a name do not matter, the order stays.

    Raises:
        ConfigError: an unknown name (with those like it), one given twice, or none at all.
    """
    names = [name.strip() for name in text.split(",")]
    if not any(names):
        raise _bad(text, "it names no method", f"--methods {','.join(PAPER_METHODS)}")
    if not all(names):
        raise _bad(text, "a name is missing between two commas, or at an end", "remove the extra comma")
    for name in names:
        if name not in METHODS:
            near = _near(name)
            raise _bad(
                text,
                f"unknown method {name!r}",
                f"did you mean {' or '.join(near)}?" if near else "take names from that list",
            )
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise _bad(text, f"{', '.join(twice)} is given more than once", "name each method once")
    return tuple(METHODS[name] for name in names)


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
        f"--methods {text!r}: {problem}", rule=f"comma-separated names, known: {', '.join(METHODS)}", remedy=remedy
    )
