"""Rollouts made elsewhere: a new run that goes on at `verify`, or an error that names the line and nothing on disk."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from bcpg_cluster.assets.chain.task import parse_question
from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.load import parse_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, DataError, UserError
from bcpg_cluster.exchange.import_rollouts import IMPORT_FILE, check_round_trip, import_rollouts
from bcpg_cluster.exchange.import_tokenizer import TransformersTokenizer
from bcpg_cluster.exchange.rollout_file import RolloutFile
from bcpg_cluster.records import Rollout, SampleId, StopReason
from bcpg_cluster.run.directory import check_run_directory, load_run_config
from bcpg_cluster.run.preflight.prompts import read_all_prompts
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.rows import outcomes_from, prompts_from, rollouts_from, weighted_from
from bcpg_cluster.store.shards import read_table
from bcpg_cluster_cli.exchange.import_rollouts import import_tokenizer, read_columns, run_import

END = 7


class ByteTokenizer:
    """A token a UTF-8 byte, counted from 100; only the last byte of a character adds its text."""

    end_token_id: int | None = END

    def render(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        return (1, *(100 + byte for byte in messages[0]["content"].encode()), 2)

    def encode(self, text: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
        texts = [piece for char in text for piece in (*[""] * (len(char.encode()) - 1), char)]
        return tuple(100 + byte for byte in text.encode()), tuple(texts)

    def rendered_texts(self, question: str) -> tuple[str, ...]:
        return (f"<user>{question}<assistant>", f"user\n{question}\nassistant\n")


class LoweringTokenizer(ByteTokenizer):
    """Loses upper case, as a normaliser may."""

    def encode(self, text: str) -> tuple[tuple[int, ...], tuple[str, ...]]:
        return super().encode(text.lower())


def write(path: Path, lines: Sequence[dict[str, Any] | str]) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def line(prompt: str = "1+1?", response: str = "2", answer: Any = "2", **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "response": response, "answer": answer, **more}


def imported(run_dir: Path) -> list[Rollout]:
    return rollouts_from(read_table(run_dir, read_manifest(run_dir).receipts(1, "rollouts")))


# --- what is written


def test_by_hand(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    config = make_config(generate={"prompts_per_shard": 2})
    source = write(
        tmp_path / "given.jsonl",
        [
            line("A?", "é", "1"),
            line("B?", "x", 2),
            "",
            line("A?", "no", "1", stop_reason="length"),
            line("C?", "y\u2028z", "3"),
        ],
    )
    done = import_rollouts(source, tmp_path / "run", config, ByteTokenizer())
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert (done.policy, done.policy_version) == (f"external:{digest[:16]}", -1)
    assert (done.num_prompts, done.num_samples, done.num_shards, done.num_alone) == (3, 4, 2, 2)
    state = read_manifest(tmp_path / "run")
    assert {key: table.num_shards for key, table in state.sealed.items()} == {(1, "prompts"): 2, (1, "rollouts"): 2}
    prompts = prompts_from(read_table(tmp_path / "run", state.receipts(1, "prompts")))
    assert [(p.question, p.answer) for p in prompts] == [("A?", "1"), ("B?", "2"), ("C?", "3")]
    a, b, c = (p.prompt_id for p in prompts)
    rollouts = imported(tmp_path / "run")
    assert [(r.id, r.text, r.token_ids, r.token_texts, r.stop_reason) for r in rollouts] == [
        (SampleId(1, a, 0), "é", (295, 269, END), ("", "é", ""), StopReason.STOP),
        (SampleId(1, a, 1), "no", (210, 211), ("n", "o"), StopReason.LENGTH),  # cut off: no end token
        (SampleId(1, b, 0), "x", (220, END), ("x", ""), StopReason.STOP),
        (
            SampleId(1, c, 0),
            "y\u2028z",
            (221, 326, 228, 268, 222, END),
            ("y", "", "", "\u2028", "z", ""),
            StopReason.STOP,
        ),
    ]
    assert {r.prompt_token_ids for r in rollouts if r.id.prompt_id == a} == {(1, 165, 163, 2)}
    assert {(r.sampler_logprobs, r.seed, r.policy_version) for r in rollouts} == {((), None, -1)}
    assert [r.metrics for r in state.receipts(1, "rollouts")] == [
        {"samples": 3, "tokens": 7, "stop.stop": 2, "stop.length": 1, "stop.aborted": 0, "stop.prompt_too_long": 0},
        {"samples": 1, "tokens": 6, "stop.stop": 1, "stop.length": 0, "stop.aborted": 0, "stop.prompt_too_long": 0},
    ]
    noted = json.loads((tmp_path / "run" / IMPORT_FILE).read_text())
    assert (noted["sha256"], noted["num_tokens"], noted["absent"]) == (digest, 13, ["sampler_logprobs", "seed"])


def test_given_ids_and_samples_are_kept_and_other_names_are_mapped(
    tmp_path: Path, make_config: Callable[..., Config]
) -> None:
    rows = [line(response="b", uid="p7", k=3), line(response="a", uid="p7", k=0), line(uid="p9", k=0)]
    renamed = [{("completion" if key == "response" else key): value for key, value in row.items()} for row in rows]
    columns = read_columns(["response=completion", "prompt_id=uid", "sample=k"])
    source = write(tmp_path / "given.jsonl", renamed)
    import_rollouts(source, tmp_path / "run", make_config(), ByteTokenizer(), columns=columns)
    assert [(r.id, r.text) for r in imported(tmp_path / "run")] == [
        (SampleId(1, "p7", 0), "a"),
        (SampleId(1, "p7", 3), "b"),
        (SampleId(1, "p9", 0), "2"),
    ]


@pytest.mark.parametrize(("context", "longer"), [(None, 0), (4, 2), (5, 1), (6, 0)])
def test_responses_beyond_the_context_are_counted(
    tmp_path: Path, make_config: Callable[..., Config], context: int | None, longer: int
) -> None:
    """With their prompt (3 tokens) and the end token they have 6, 5 and 4 tokens."""
    source = write(tmp_path / "given.jsonl", [line("A", "bc"), line("A", "b"), line("A", "c", stop_reason="length")])
    done = import_rollouts(source, tmp_path / "run", make_config(), ByteTokenizer(), max_model_len=context)
    assert (done.max_model_len, done.num_longer, done.num_samples) == (context, longer, 3)


def test_the_command_says_how_many_are_longer(
    tmp_path: Path, make_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(policy={"engine_args": {"max_model_len": 8}})
    (tmp_path / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    source = write(tmp_path / "given.jsonl", [line("1 +1", "answer 2"), line("1 +1", "2", stop_reason="length")])
    run_import(source, str(tmp_path / "config.yaml"), [], tmp_path / "run", None)
    said = capsys.readouterr().out
    assert "1 responses are longer with their prompt than the policy's context of 8 tokens" in said


def test_a_policy_without_an_end_token(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    tokenizer = ByteTokenizer()
    tokenizer.end_token_id = None
    import_rollouts(write(tmp_path / "g.jsonl", [line()]), tmp_path / "run", make_config(), tokenizer)
    assert [r.token_ids for r in imported(tmp_path / "run")] == [(150,)]


@settings(max_examples=30, deadline=None)
@given(
    groups=st.lists(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=4), min_size=1, max_size=6),
    per_shard=st.integers(1, 4),
    order=st.randoms(),
)
def test_every_response_comes_back_once_in_its_group(
    tmp_path_factory: pytest.TempPathFactory,
    make_config: Callable[..., Config],
    groups: list[list[str]],
    per_shard: int,
    order: Any,
) -> None:
    """Whatever the order of the lines and whatever the texts hold; shards hold whole groups."""
    folder = tmp_path_factory.mktemp("any")
    rows = [line(f"q{k}", text, str(k)) for k, texts in enumerate(groups) for text in texts]
    order.shuffle(rows)
    config = make_config(generate={"prompts_per_shard": per_shard})
    import_rollouts(write(folder / "g.jsonl", rows), folder / "run", config, ByteTokenizer())
    state = read_manifest(folder / "run")
    found: dict[str, list[str]] = {}
    for of_prompts, of_rollouts in zip(state.receipts(1, "prompts"), state.receipts(1, "rollouts"), strict=True):
        questions = {p.prompt_id: p.question for p in prompts_from(read_table(folder / "run", [of_prompts]))}
        assert 1 <= len(questions) <= per_shard
        for rollout in rollouts_from(read_table(folder / "run", [of_rollouts])):
            texts = found.setdefault(questions[rollout.id.prompt_id], [])
            assert rollout.id.sample == len(texts)
            texts.append(rollout.text)
    given_order = {f"q{k}": [row["response"] for row in rows if row["prompt"] == f"q{k}"] for k in range(len(groups))}
    assert found == given_order


# --- the run goes on


def test_iterate_goes_on_at_verify(
    tmp_path: Path, make_config: Callable[..., Config], run_rounds: Callable[..., Any]
) -> None:
    """12 imported groups through verify, judges, weighing, training and push; round 2 draws its own."""
    config = make_config()
    prompts = read_all_prompts(config).train[: config.prompts.per_round]
    rows = []
    for prompt in prompts:
        lines = parse_question(prompt.question)
        rows += [
            line(f"{prompt.question}", f"{prompt.question}\nanswer {prompt.answer}", prompt.answer, sample=k)
            for k in range(2)
        ]
        rows.append(line(prompt.question, f"{lines.start}\nstill\nanswer 1000", prompt.answer, sample=5))
    source = write(tmp_path / "given.jsonl", rows)
    config_file = tmp_path / "config.yaml"
    config_file.write_text(json.dumps(config.model_dump(mode="json")))
    run_import(source, str(config_file), [], tmp_path / "run", None)
    check_run_directory(tmp_path / "run", config)
    before = imported(tmp_path / "run")
    run = run_rounds(tmp_path / "run", load_run_config(tmp_path / "run"), 2)
    assert imported(tmp_path / "run") == before
    state = read_manifest(tmp_path / "run")
    outcomes = outcomes_from(read_table(tmp_path / "run", state.receipts(1, "outcomes")))
    assert {id_.sample: outcome.reward for id_, outcome in outcomes.items()} == {0: 1.0, 1: 1.0, 5: 0.0}
    weighted = weighted_from(read_table(tmp_path / "run", state.receipts(1, "weighted")))
    assert {row.id: row.token_ids for row in weighted} == {r.id: r.token_ids for r in before}
    assert {round(row.advantage, 6) for row in weighted} == {0.333333, -0.666667}
    assert run.reports[1]["samples"]["asked"] == run.reports[1]["samples"]["kept"] == 36
    second = rollouts_from(read_table(tmp_path / "run", state.receipts(2, "rollouts")))
    assert {rollout.policy_version for rollout in second} == {1}


@pytest.mark.parametrize("objective", ["grpo", "topr", "dpo", "kto"])
def test_every_ratio_is_against_the_trainers_own_reference(
    objective: str, tmp_path: Path, make_config: Callable[..., Config], run_rounds: Callable[..., Any]
) -> None:
    """Objectives with ratios train on responses without log-probs of a sampler: absent is absent, never a zero."""
    content = make_config().model_dump(mode="json")
    content["objective"] = {"name": objective}
    config = parse_config(content, "test")
    prompts = read_all_prompts(config).train[:4]
    rows = [line(p.question, f"{p.question}\nanswer {a}", p.answer) for p in prompts for a in (p.answer, 1000)]
    source = write(tmp_path / "given.jsonl", rows)
    config_file = tmp_path / "config.yaml"
    config_file.write_text(json.dumps(content))
    run_import(source, str(config_file), [], tmp_path / "run", None)
    assert {r.sampler_logprobs for r in imported(tmp_path / "run")} == {()}
    report = run_rounds(tmp_path / "run", load_run_config(tmp_path / "run"), 1).reports[1]
    assert report["samples"]["kept"] == 8
    assert report["train"]["steps"] >= 1


def test_test_problems_are_not_learned_from(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    config = make_config()
    question = read_all_prompts(config).test[0].question
    source = write(tmp_path / "given.jsonl", [line(), line(question, "x", "1")])
    config_file = tmp_path / "config.yaml"
    config_file.write_text(json.dumps(config.model_dump(mode="json")))
    with pytest.raises(DataError, match="1 test questions are also in the train file"):
        run_import(source, str(config_file), [], tmp_path / "run", None)
    assert not (tmp_path / "run").exists()


# --- a real tokenizer


@pytest.fixture(scope="module")
def policy_tokenizer() -> TransformersTokenizer:
    from transformers import AutoTokenizer

    from bcpg_cluster.stages.generate.token_texts import token_texts

    return TransformersTokenizer(AutoTokenizer.from_pretrained(resolve_asset("embedded:chain/policy")), token_texts)


def test_the_embedded_policys_tokenizer(
    tmp_path: Path, make_config: Callable[..., Config], policy_tokenizer: TransformersTokenizer
) -> None:
    """Characters are ids 5 to 20, `wait` is 21, `answer ` 22, the end token 1 (the policy's vocabulary)."""
    source = write(tmp_path / "g.jsonl", [line("3+4", "3+4=7\nwait\nanswer 7", "7")])
    import_rollouts(source, tmp_path / "run", make_config(), policy_tokenizer)
    (rollout,) = imported(tmp_path / "run")
    assert rollout.prompt_token_ids == (2, 8, 15, 9, 3)
    assert rollout.token_ids == (8, 15, 9, 18, 12, 20, 21, 20, 22, 12, 1)
    assert rollout.token_texts == ("3", "+", "4", "=", "7", "\n", "wait", "\n", "answer ", "7", "")


@pytest.mark.parametrize(
    ("response", "why"),
    [
        ("3+4=七", r"from character 4 on it was '七' and comes back as ''"),  # unknown to it
        ("3+4=7<|end|>", r"from character 5 on it was '<|end|>'"),  # a special token adds no text
    ],
)
def test_a_response_it_cannot_give_back(
    tmp_path: Path,
    make_config: Callable[..., Config],
    policy_tokenizer: TransformersTokenizer,
    response: str,
    why: str,
) -> None:
    source = write(tmp_path / "g.jsonl", [line("3+4", "7", "7"), line("3+4", response, "7")])
    with pytest.raises(DataError, match=r"line 2: the tokenizer changes the response") as caught:
        import_rollouts(source, tmp_path / "run", make_config(), policy_tokenizer)
    assert why in caught.value.problem
    assert [path.name for path in tmp_path.iterdir()] == ["g.jsonl"]


def test_a_tokenizer_without_a_chat_template() -> None:
    class Bare:
        chat_template = None

    with pytest.raises(DataError, match="no chat template"):
        TransformersTokenizer(Bare(), lambda tokenizer, ids: ())


def test_a_model_without_a_tokenizer(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    (tmp_path / "config.json").write_text("{}")
    config = make_config(policy={"kind": "vllm", "model": str(tmp_path)})
    with pytest.raises(DataError, match="cannot be loaded"):
        import_tokenizer(config)


# --- files as people have them

_ROWS = [line("A?", 'é, "so"', "1"), line("A?", "no\nyes", "1", stop_reason="length"), line("B?", "x", "2")]
_TEXT = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _ROWS).encode()
_CSV = 'prompt,response,answer,stop_reason\nA?,"é, ""so""",1,\nA?,"no\nyes",1,length\nB?,x,2,\n'.encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mark.jsonl", b"\xef\xbb\xbf" + _TEXT),
        ("crlf.jsonl", _TEXT.replace(b"\n", b"\r\n")),
        ("array.json", json.dumps(_ROWS, indent=1).encode()),
        ("t.jsonl.gz", gzip.compress(_TEXT, mtime=0)),
        ("t.csv", _CSV),
        ("t.csv.gz", gzip.compress(b"\xef\xbb\xbf" + _CSV, mtime=0)),
    ],
)
def test_other_formats_and_line_ends(
    tmp_path: Path, make_config: Callable[..., Config], name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    done = import_rollouts(tmp_path / name, tmp_path / "run", make_config(), ByteTokenizer())
    assert (done.num_prompts, done.num_samples, done.source) == (2, 3, name)
    assert done.sha256 == hashlib.sha256(content).hexdigest()
    assert [(r.text, r.stop_reason) for r in imported(tmp_path / "run")] == [
        ('é, "so"', StopReason.STOP),
        ("no\nyes", StopReason.LENGTH),
        ("x", StopReason.STOP),
    ]


def test_parquet_with_chats_and_numbers(tmp_path: Path) -> None:
    rows = [
        {"prompt": [{"role": "user", "content": "A?"}], "out": {"text": "two"}, "gold": 2, "n": 1},
        {"prompt": [{"role": "user", "content": "A?"}], "out": {"text": "three"}, "gold": 2, "n": 0},
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    columns = {"response": "out.text", "answer": "gold", "sample": "n"}
    with RolloutFile(tmp_path / "t.parquet", columns) as file:
        (group,) = file.groups
        assert (group.prompt.question, group.prompt.answer, group.samples) == ("A?", "2", [1, 0])
        assert [found.response for _, _, found in file.read(group)] == ["two", "three"]
    rows.append({"prompt": [{"role": "user", "content": "A?"}], "out": {"text": "x"}, "gold": 3, "n": 5})
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t.parquet, row 2: the answer .3. differs from .2. in row 0"):
        RolloutFile(tmp_path / "t.parquet", columns).check()


# --- bad input


BAD: list[tuple[str, list[dict[str, Any] | str], str]] = [
    (
        "half a character",
        [line(), '{"prompt": "What is 3+4?", "answer": "7", "response": "It is \\ud83d 7"}'],
        r"line 2: response holds half a character, \"\\ud83d\" at character 6",
    ),
    ("NaN", [line(), '{"prompt": "x", "answer": NaN, "response": "y"}'], "line 2: not JSON: it holds NaN"),
    (
        "a typo",
        [{"promt": "x", "answer": "1", "response": "y"}],
        "line 1: lacks prompt; it has answer, promt, response",
    ),
    ("no response", [line(), {"prompt": "x", "answer": "1"}], r"line 2: lacks response; it has answer, prompt"),
    ("nothing", ["{}"], r"line 1: lacks prompt, response, answer; it has nothing"),
    ("empty response", [line(), line(response=" \n")], r"line 2: response is ' \\n'"),
    ("number as response", [line(response=3)], "line 1: response is 3"),
    ("empty answer", [line(answer="")], "line 1: answer is ''"),
    ("no answer", [line(answer=None)], "line 1: answer is null"),
    ("messages as prompt", [line(prompt=[{"role": "user"}])], "line 1: prompt is "),  # type: ignore[arg-type]
    ("not JSON", [line(), "", "{oops"], r"line 3: not JSON \(Expecting"),
    ("a list", ["[1, 2]"], "line 1: a list"),
    ("duplicate", [line(prompt_id="p", sample=1), line(prompt_id="p", sample=1)], "line 2: sample 1 of .* in line 1"),
    (
        "other prompt",
        [line(prompt_id="p"), line("2?", prompt_id="p")],
        "line 2: the prompt .2.. differs from .1.1.. in line 1",
    ),
    ("other answer", [line(), line(answer="3")], "line 2: the answer .3. differs from .2. in line 1"),
    ("id on some", [line(prompt_id="p"), line()], "line 2: prompt_id is missing"),
    ("sample on some", [line(), line(sample=1)], "line 2: sample is given"),
    ("sample below 0", [line(sample=-1)], "line 1: sample is -1"),
    ("sample is true", [line(sample=True)], "line 1: sample is True"),
    ("odd stop", [line(stop_reason="eos")], "line 1: stop_reason is 'eos'"),
    ("aborted", [line(stop_reason="aborted")], "line 1: stop_reason is 'aborted'"),
    ("no line", ["", "  "], "has no responses"),
]


@pytest.mark.parametrize(("lines", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_file(
    tmp_path: Path, make_config: Callable[..., Config], lines: list[dict[str, Any] | str], message: str
) -> None:
    source = write(tmp_path / "g.jsonl", lines)
    with pytest.raises(DataError, match=message) as caught:
        import_rollouts(source, tmp_path / "run", make_config(), ByteTokenizer())
    assert caught.value.rule and caught.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["g.jsonl"]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "g.jsonl").write_bytes(json.dumps(line()).encode() + b'\n{"prompt": "\xff"}\n')
    with pytest.raises(DataError, match=r"line 2: not UTF-8"):
        RolloutFile(tmp_path / "g.jsonl").check()
    with pytest.raises(DataError, match="does not exist"):
        RolloutFile(tmp_path / "other.jsonl")


@pytest.mark.parametrize("pair", ["response", "=x", "response="])
def test_a_bad_column_option(pair: str) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_columns([pair])


def test_a_mapping_of_unknown_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="names unknown columns: reward"):
        RolloutFile(write(tmp_path / "g.jsonl", [line()]), {"reward": "r"})
    with pytest.raises(DataError, match="line 1: lacks text; it has answer, prompt, response"):
        RolloutFile(write(tmp_path / "g.jsonl", [line()]), {"response": "text"}).check()


def test_a_tokenizer_that_changes_the_text(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    """Late in the file: the shards that were fine already leave nothing behind."""
    config = make_config(generate={"prompts_per_shard": 1})
    source = write(tmp_path / "g.jsonl", [line("a"), line("b"), line("c", "so It is")])
    with pytest.raises(DataError, match=r"line 3: .* from character 3 on it was 'It is' and comes back as 'it is'"):
        import_rollouts(source, tmp_path / "run", config, LoweringTokenizer())
    assert [path.name for path in tmp_path.iterdir()] == ["g.jsonl"]


@pytest.mark.parametrize("asked", ["<think>\n", "<think>", ""])
def test_thinking_that_would_be_opened_twice(tmp_path: Path, make_config: Callable[..., Config], asked: str) -> None:
    class Thinking(ByteTokenizer):
        def render(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
            return (*super().render(messages), *self.encode(asked)[0])

    source = write(tmp_path / "g.jsonl", [line("a", "hm</think>"), line("b", "<think>\nhm</think>")])
    if not asked:  # the response itself opens it: fine
        import_rollouts(source, tmp_path / "run", make_config(), Thinking())
        return
    with pytest.raises(DataError, match="line 2: the response begins with <think>"):
        import_rollouts(source, tmp_path / "run", make_config(), Thinking())
    assert [path.name for path in tmp_path.iterdir()] == ["g.jsonl"]


@pytest.mark.parametrize(
    ("ids", "texts", "place"),
    [((1, 2), ("ab",), 2), ((1,), ("a", "b"), 2), ((), (), 0), ((1,), ("abc",), 2), ((1,), ("a",), 1)],
)
def test_round_trips_that_fail(ids: tuple[int, ...], texts: tuple[str, ...], place: int) -> None:
    with pytest.raises(DataError, match=f"from character {place} on"):
        check_round_trip("ab", ids, texts)


def test_a_run_directory_that_is_taken(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    source = write(tmp_path / "g.jsonl", [line()])
    import_rollouts(source, tmp_path / "run", make_config(), ByteTokenizer())
    with pytest.raises(DataError, match="already exists"):
        import_rollouts(source, tmp_path / "run", make_config(), ByteTokenizer())
    assert len(imported(tmp_path / "run")) == 1


@pytest.mark.parametrize("kind", ["confidence", "entropy"])
def test_a_segmenter_that_reads_the_sampler_is_refused_first(
    kind: str, tmp_path: Path, make_config: Callable[..., Config]
):
    config = make_config(segment={"kind": kind})
    with pytest.raises(ConfigError, match=f"segment.kind is '{kind}', and imported responses come without"):
        import_rollouts(tmp_path / "missing.jsonl", tmp_path / "run", config, ByteTokenizer())
    assert not (tmp_path / "run").exists()
