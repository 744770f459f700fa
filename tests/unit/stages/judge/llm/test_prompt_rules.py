"""prompt_rules.py: the words of a rule come into the prompt, and a prompt says which rules it has words for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.records import ErrorType
from bcpg_cluster.stages.judge.llm.answer_schema import parse_answer, verdict_schema
from bcpg_cluster.stages.judge.llm.judge_prompt import parse_judge_prompt, render_judge_messages
from bcpg_cluster.stages.judge.llm.prompt_rules import RULES

PROMPTS = Path(__file__).parents[5] / "bcpg_cluster" / "assets" / "judge_prompts"
PLAIN = """
name = "p"
system = "Costs $5. $how"
user = "$problem $steps $first $last: $how ${how}. $$how"
step = "$index $text"
"""
TABLES = """
[rules.propagated]
how = "with $first mistakes"
[rules.local]
how = '$ by \\itself'
"""


def test_the_words_take_their_places() -> None:
    paper, local = (parse_judge_prompt(PLAIN + TABLES, rule) for rule in RULES)
    assert paper.system == "Costs $5. with $first mistakes"  # the system message is no template
    system, user = render_judge_messages(local, "q", ["s"], 0, 0)
    assert system["content"] == "Costs $5. $ by \\itself"
    assert user["content"] == "q 0 s 0 0: $ by \\itself $ by \\itself. $how"
    assert "with $first mistakes with $first mistakes." in render_judge_messages(paper, "q", ["s"], 0, 0)[1]["content"]
    assert (paper.rule, local.rule) == ("propagated", "local")
    assert paper.digest != local.digest


def test_one_rule_alone() -> None:
    only = PLAIN + "[rules.local]\nhow = 'x'"
    assert parse_judge_prompt(only, "local").system == "Costs $5. x"
    with pytest.raises(ConfigError, match="no words for the rule 'propagated'; it asks by local"):
        parse_judge_prompt(only)


def test_the_rule_is_in_the_digest_where_the_words_are_the_same() -> None:
    same = PLAIN + "[rules.local]\nhow = 'x'\n[rules.propagated]\nhow = 'x'"
    assert parse_judge_prompt(same, "local").digest != parse_judge_prompt(same, "propagated").digest


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ("[rules.first_error]\nhow = 'x'", "tables by the names propagated, local"),
        ("[rules]\npropagated = 'x'", "tables of rules fill the same places"),
        ("[rules.propagated]\nhow = 'x'\n[rules.local]\nwhy = 'x'", "tables of rules fill the same places"),
        ("[rules.propagated]\nhow = 3", "how of .rules.propagated. must be text, not 3"),
        ("[rules.propagated]\nhow = 'x'\nwhy = 'y'", r"neither system nor user has \$why"),
        ("[rules.propagated]", "nothing fills"),  # the place stays
    ],
)
def test_tables_that_are_none(tables: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_judge_prompt(PLAIN + tables)


def test_a_file_does_not_choose_the_rule() -> None:
    with pytest.raises(ValueError, match="the config's to choose"):
        parse_judge_prompt('rule = "local"' + PLAIN + TABLES)


def test_by_itself_no_step_is_wrong_as_propagated() -> None:
    paper, local = (parse_judge_prompt((PROMPTS / "taxonomy.toml").read_text(), rule) for rule in RULES)
    assert "Error propagation" in paper.system and "propagated" not in local.system
    said = [{"step": 0, "reason": "", "error_type": "propagated", "correct": 0}]
    for is_bound in (True, False):
        assert parse_answer(local, json.dumps({"verdicts": said}), 0, 0, is_bound=is_bound) is None
        verdicts = parse_answer(paper, json.dumps({"verdicts": said}), 0, 0, is_bound=is_bound)
        assert verdicts is not None and verdicts[0].error_type is ErrorType.PROPAGATED
    assert "propagated" in verdict_schema(1) and "propagated" not in verdict_schema(1, rule="local")


def test_the_compact_prompt_by_either_rule() -> None:
    text = (PROMPTS / "compact.toml").read_text()
    (paper,), (local,) = (
        render_judge_messages(parse_judge_prompt(text, rule), "17 +25", ["17+25=43"], 0, 0) for rule in RULES
    )
    assert paper["content"] == "17 +25\n0 17+25=43\njudge 0 0\n"
    assert local["content"] == "17 +25\n0 17+25=43\njudge local 0 0\n"
