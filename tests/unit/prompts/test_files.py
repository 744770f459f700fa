"""prompts.py: files that are refused, and the dealing of prompts to rounds and shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.errors import DataError
from bcpg_cluster.prompts.files import read_prompts
from bcpg_cluster.prompts.sets import check_disjoint, round_prompts, rounds_with_same_prompts, split_shards
from bcpg_cluster.records import Prompt


def _line(prompt_id: object = "p", question: object = "q", answer: object = "1") -> str:
    return json.dumps({"prompt_id": prompt_id, "question": question, "answer": answer})


def test_a_good_file(tmp_path: Path):
    file = tmp_path / "p.jsonl"
    extra = json.dumps({"prompt_id": 7, "question": "Was ist ½?", "answer": 0.5, "level": "extra keys are let be"})
    file.write_text(f"{_line('a')}\n\n  \n{extra}\n", encoding="utf-8")
    assert read_prompts(str(file)) == [Prompt("a", "q", "1"), Prompt("7", "Was ist ½?", "0.5")]


def test_line_separators_inside_a_string_do_not_cut_the_line(tmp_path: Path):
    question = "one\u2028two\u0085three\x0cfour"
    file = tmp_path / "p.jsonl"
    prompt = {"prompt_id": "a", "question": question.replace("\x0c", ""), "answer": "1"}
    file.write_text(json.dumps(prompt, ensure_ascii=False) + "\r\n", encoding="utf-8")
    assert read_prompts(str(file))[0].question == "one\u2028two\u0085threefour"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "has no rows"),
        ("\n \n", "has no rows"),
        ("question: what?\n", "line 1: not JSON"),
        (_line() + "\n" + _line("b")[:-4], "line 2: not JSON"),
        ("[1]\n", "line 1: a list"),
        ('{"prompt_id": "a", "question": "q"}', "no column 'answer'; known: prompt_id, question"),
        (_line() + "\n" + '{"prompt_id": "b", "question": "r"}', "line 2: no column 'answer'"),
        (_line(answer=""), "answer is ''"),
        (_line(answer="  "), "answer is '  '"),
        (_line(answer=None), "answer is null"),
        (_line(answer=True), "answer is true"),
        (_line(answer=["1"]), "answer is "),
        (_line(question=""), "question is ''"),
        (_line(prompt_id=""), "prompt_id is ''"),
        (_line("a") + "\n" + _line("b") + "\n\n" + _line("a"), "line 4: prompt_id 'a' was used in line 1"),
        (_line("1") + "\n" + _line(1), "line 2: prompt_id '1' was used in line 1"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, problem: str):
    file = tmp_path / "p.jsonl"
    file.write_text(content)
    with pytest.raises(DataError) as caught:
        read_prompts(str(file))
    assert problem in caught.value.problem
    assert str(file) in caught.value.problem
    assert caught.value.rule
    assert caught.value.remedy


def test_missing_or_binary_files(tmp_path: Path):
    with pytest.raises(DataError, match="does not exist"):
        read_prompts(str(tmp_path / "none.jsonl"))
    with pytest.raises(DataError, match="does not exist"):
        read_prompts(str(tmp_path))
    (tmp_path / "b.jsonl").write_bytes(b"\xfa\xfb\xfc")
    with pytest.raises(DataError, match="line 1: not UTF-8"):
        read_prompts(str(tmp_path / "b.jsonl"))


def test_a_test_question_in_the_train_file():
    train, test = [Prompt("a", "one", "1"), Prompt("b", "two", "2")], [Prompt("c", "two", "2")]
    check_disjoint(train[:1], test)
    with pytest.raises(DataError, match=r"1 test questions are also in the train file, e\.g\. 'two'"):
        check_disjoint(train, test)


def _prompts(number: int) -> list[Prompt]:
    return [Prompt(f"p{index}", f"q{index}", "1") for index in range(number)]


def test_stated_order_by_hand():
    ids = [[p.prompt_id for p in round_prompts(_prompts(5), r, 2, "stated", 0)] for r in (1, 2, 3, 4)]
    assert ids == [["p0", "p1"], ["p2", "p3"], ["p4", "p0"], ["p1", "p2"]]


def test_a_round_asks_for_too_many():
    with pytest.raises(DataError, match=r"prompts\.per_round is 6, the train file holds 5"):
        round_prompts(_prompts(5), 1, 6, "stated", 0)


@given(st.integers(1, 30), st.data(), st.integers(0, 5), st.sampled_from(["stated", "shuffled"]))
def test_rounds_take_fresh_prompts_until_all_were_used(number: int, data: st.DataObject, seed: int, order: str):
    prompts = _prompts(number)
    per_round = data.draw(st.integers(1, number))
    rounds = number // per_round
    seen = [p for r in range(1, rounds + 1) for p in round_prompts(prompts, r, per_round, order, seed)]
    assert len(set(seen)) == len(seen) == rounds * per_round
    for round_ in (1, rounds + 1, rounds + 7):
        chosen = round_prompts(prompts, round_, per_round, order, seed)
        assert len(set(chosen)) == per_round  # distinct within a round, also where it wraps around
        assert chosen == round_prompts(prompts, round_, per_round, order, seed)


def test_the_shuffle_follows_the_seed():
    orders = [round_prompts(_prompts(30), 1, 30, "shuffled", seed) for seed in (0, 1)]
    assert orders[0] != orders[1] != _prompts(30)
    assert sorted(p.prompt_id for p in orders[0]) == sorted(p.prompt_id for p in _prompts(30))


@given(st.integers(0, 20), st.integers(1, 7))
def test_shards_tile_the_prompts(number: int, per_shard: int):
    shards = split_shards(_prompts(number), per_shard)
    assert [p for shard in shards for p in shard] == _prompts(number)
    assert all(len(shard) == per_shard for shard in shards[:-1])
    assert all(shards)


@pytest.mark.parametrize(("num_prompts", "per_round"), [(12, 4), (10, 4), (7, 7), (7, 5), (5, 1), (13, 3)])
def test_rounds_that_share_prompts_are_found_without_dealing_them(num_prompts: int, per_round: int):
    def dealt(round_: int) -> set[str]:
        return {p.prompt_id for p in round_prompts(_prompts(num_prompts), round_, per_round, "shuffled", 0)}

    for round_ in range(1, 30):
        found = rounds_with_same_prompts(num_prompts, round_, per_round)
        assert found == sorted(found, reverse=True)
        assert all(0 < earlier < round_ and dealt(earlier) & dealt(round_) for earlier in found)
        asked_before = set.union(set(), *(dealt(earlier) for earlier in range(1, round_)))
        assert dealt(round_) & asked_before == dealt(round_) & set.union(set(), *map(dealt, found))
        assert len(found) <= 4  # a pass holds many rounds, and few of them share anything
