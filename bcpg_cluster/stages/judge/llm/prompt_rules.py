"""The parts of a judge prompt that depend on when a step is right (``judges.*.rule``).

A prompt file may have a table for each rule it can ask by::

    user = "... judge by this: $what_counts ..."
    [rules.propagated]
    what_counts = "a step that builds on a wrong one is wrong"
    [rules.local]
    what_counts = "each step by itself"

The texts of the rule asked for take the places of the same names in ``system`` and ``user``. A file without such tables
asks by the paper's rule, ``propagated``; one for a model that was trained to judge (``stages.judge.llm.families``) by whichever
rule that model was taught, which no word of a prompt changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.records import StepRule
from bcpg_cluster.stages.judge.llm.families.families import FAMILIES

RULES: tuple[StepRule, ...] = get_args(StepRule)


def with_rule(fields: Mapping[str, Any], rule: StepRule) -> dict[str, Any]:
    """The fields of a prompt file with the words of one rule filled in; the tables are gone.

    Raises:
        ConfigError: the prompt has no words for ``rule``.
        ValueError: the tables are not texts by the same names, or a name has no place in ``system`` and ``user``.
    """
    fields = dict(fields)
    tables = fields.pop("rules", {})
    texts = _texts_of(tables, fields.get("name"))
    served = tuple(texts) or (RULES if fields.get("answer") in FAMILIES else ("propagated",))
    if rule not in served:
        raise ConfigError(
            f"judge prompt {fields.get('name')!r} has no words for the rule {rule!r}; it asks by {', '.join(served)}",
            rule="a judge is told when a step is right: a prompt asks by the rules that it has a table for, and by "
            "'propagated' where it has none",
            remedy=f"add [rules.{rule}] to the prompt (embedded:taxonomy has both), or set the judge's rule to {served[0]}",
        )
    filled: set[str] = set()
    for key in ("system", "user"):
        if isinstance(fields.get(key), str):
            fields[key], found = _fill(fields[key], texts.get(rule, {}), is_template=key == "user")
            filled |= found
    unused = sorted(set(texts.get(rule, {})) - filled)
    if unused:
        raise ValueError(
            f"judge prompt {fields.get('name')!r}: neither system nor user has ${', $'.join(unused)} of [rules.{rule}]"
        )
    return fields


def _fill(text: str, words: Mapping[str, str], *, is_template: bool) -> tuple[str, set[str]]:
    """``text`` with ``words`` in their places, and the names that had one. What else looks like a place is left alone."""
    found: set[str] = set()

    def filled(place: re.Match[str]) -> str:
        name = place[1] or place[2]
        if name not in words:
            return place[0]
        found.add(name)
        return words[name].replace("$", "$$") if is_template else words[name]

    return re.sub(r"(?<!\$)\$(?:(\w+)|\{(\w+)\})", filled, text), found


def _texts_of(tables: Any, prompt: Any) -> dict[StepRule, dict[str, str]]:
    """The texts by rule and name, checked."""
    if not isinstance(tables, dict) or not set(tables) <= set(RULES):
        raise ValueError(f"judge prompt {prompt!r}: rules are tables by the names {', '.join(RULES)}, not {tables!r}")
    names = [set(table) if isinstance(table, dict) else None for table in tables.values()]
    if any(of_rule is None or of_rule != names[0] for of_rule in names):
        raise ValueError(f"judge prompt {prompt!r}: the tables of rules fill the same places, not {tables!r}")
    for rule, table in tables.items():
        for name, text in table.items():
            if not name.isidentifier() or not isinstance(text, str):
                raise ValueError(f"judge prompt {prompt!r}: {name} of [rules.{rule}] must be text, not {text!r}")
    return tables
