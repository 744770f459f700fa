"""write.py: a first config from files, checked as `iterate` checks it, and nothing left behind where something is wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.load import load_config
from bcpg_cluster.errors import ConfigError, DataError, UserError
from bcpg_cluster.new_config import judge as judges
from bcpg_cluster.new_config.data import read_data
from bcpg_cluster.new_config.facts import ModelFacts
from bcpg_cluster.new_config.judge import read_judge
from bcpg_cluster.new_config.rewards import ANSWER_PATTERN, absolute_function, are_mathematics
from bcpg_cluster.new_config.schema import config_schema
from bcpg_cluster.new_config.write import SCHEMA_FILE, Wanted, run_name, write_first_config
from bcpg_cluster.records import StopReason
from bcpg_cluster.stages.verify.exact import ExactVerifier
from tests.loopback_server import LoopbackServer

TINY = "embedded:chain/policy"  # answers chains such as "29 +39 *9"


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray that another test has started is not the machine that `init` reads."""
    monkeypatch.setenv("RAY_ADDRESS", "local")


@pytest.fixture
def chains(tmp_path: Path) -> Path:
    """Problems that the embedded model's characters spell, under names of their own; two questions occur twice."""
    path = tmp_path / "chains.jsonl"
    rows = [{"nr": n, "problem": f"{n % 38 + 10} +{n % 38 + 11}", "result": 2 * (n % 38) + 21} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def endpoint() -> Iterator[str]:
    """A server that only says which models it has."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"data": [{"id": "big"}, {"id": "small"}]}).encode()
            good = self.path == "/v1/models" and self.headers["authorization"] in (None, "Bearer secret")
            self.send_response(200 if good else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = LoopbackServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_model_and_a_file_are_enough(chains: Path, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    written = write_first_config(Wanted(TINY, str(chains), judge=endpoint))
    assert {path.name for path in set(tmp_path.iterdir()) - before} == {
        "policy-chains.yaml", SCHEMA_FILE, "chains-train.jsonl", "chains-test.jsonl",
    }  # fmt: skip
    config = load_config(written.path)
    assert config == written.config
    assert config.prompts.columns is not None
    assert (config.prompts.columns.question, config.prompts.columns.answer) == ("problem", "result")
    assert (config.judges["judge"].kind, config.judges["judge"].model) == ("openai", "big")
    assert config.verify.kind == "math"
    text = written.path.read_text()
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA_FILE}\n")
    assert all(f"#   {line}" in text for line in written.guesses)
    told = "\n".join(written.guesses)
    for words in ("column 'problem'", "no --test was given", "the first model it serves", "this machine"):
        assert words in told


def test_what_is_there_is_not_replaced_unasked(chains: Path, endpoint: str, tmp_path: Path):
    wanted = Wanted(TINY, str(chains), judge=endpoint, judge_model="m", out=tmp_path / "mine.yaml")
    (tmp_path / "mine.yaml").write_text("keep")
    with pytest.raises(ConfigError, match=r"mine\.yaml exists already"):
        write_first_config(wanted)
    assert (tmp_path / "mine.yaml").read_text() == "keep"


def test_nothing_is_written_where_iterate_would_refuse(tmp_path: Path, tree_digest: Callable[..., dict[str, str]]):
    """The embedded model's tokenizer has no letters: its texts do not come back."""
    bad = tmp_path / "words.jsonl"
    bad.write_text("".join(json.dumps({"question": f"What is {n}+1?", "answer": n + 1}) + "\n" for n in range(20)))
    before = tree_digest(tmp_path)
    with pytest.raises(DataError, match="changes a problem's text"):
        write_first_config(Wanted(TINY, str(bad), judge="http://h/v1", judge_model="m", out=tmp_path / "w.yaml"))
    assert tree_digest(tmp_path) == before


# --- data


def test_a_question_that_occurs_twice_is_on_one_side(chains: Path, tmp_path: Path):
    data, files, _ = read_data(str(chains), None, {}, tmp_path)
    assert files is not None
    train, test = ({row["problem"] for row in rows} for rows in (files.train_rows, files.test_rows))
    assert not train & test
    assert len(train | test) == 38
    assert data.num_train + data.num_test == 40
    assert len(test) == 8  # at least that many, and a tenth of many
    assert read_data(str(chains), None, {}, tmp_path)[1] == files  # the same draw every time


def test_a_test_file_is_taken_as_it_is(chains: Path, tmp_path: Path):
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"problem": "97 +1", "result": 98}) + "\n")
    data, files, told = read_data(str(chains), str(other), {}, tmp_path)
    assert (files, data.num_train, data.num_test) == (None, 40, 1)
    assert (data.train, data.test) == (str(chains), str(other))
    assert not any("test set" in line for line in told)


def test_too_few_questions_to_split(tmp_path: Path):
    one = tmp_path / "one.jsonl"
    one.write_text('{"question": "1+1", "answer": 2}\n' * 3)
    with pytest.raises(DataError, match="holds 1 question, and no --test was given"):
        read_data(str(one), None, {}, tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read_data(str(tmp_path / "none.jsonl"), None, {}, tmp_path)


def test_ready_made_sets(tmp_path: Path):
    data, _, told = read_data("embedded:chain/prompts/train.jsonl", None, {}, tmp_path)
    assert (data.test, data.columns, data.num_train, data.num_test) == (
        "embedded:chain/prompts/test.jsonl",
        None,
        4096,
        400,
    )
    assert told == ["test set: embedded:chain/prompts/test.jsonl"]
    assert read_data("task:gsm8k", None, {}, tmp_path)[0].test == "task:gsm8k"


# --- judges and rewards


def test_an_endpoint_is_asked_for_its_models(endpoint: str, monkeypatch: pytest.MonkeyPatch):
    policy = ModelFacts("p", context=2000)
    facts, told = read_judge(endpoint, None, None, policy)
    assert facts.model is None
    assert facts.section["endpoint"] == {"base_url": f"{endpoint}/v1"}
    assert "the first model it serves" in told
    monkeypatch.setenv("THE_KEY", "secret")
    assert read_judge(endpoint, None, "THE_KEY", policy)[0].section["endpoint"]["api_key_env"] == "THE_KEY"
    assert read_judge("http://127.0.0.1:9/v1", "named", None, policy)[0].section["model"] == "named"  # nothing is asked
    monkeypatch.setattr(judges, "_WITHIN_S", 0.5)
    for address, problem in ((f"{endpoint}/v2", "404"), ("http://127.0.0.1:9/v1", "refused")):
        with pytest.raises(ConfigError, match=problem) as caught:
            read_judge(address, None, None, policy)
        assert "--judge-model" in caught.value.remedy


def test_a_directory_judges_by_what_it_is():
    policy = ModelFacts("embedded:chain/policy", context=256)
    assert read_judge("embedded:chain/prm", None, None, policy)[0].section["kind"] == "prm"
    assert read_judge("embedded:chain/judge", None, None, policy)[0].section["kind"] == "llm"
    own = read_judge(None, None, None, policy)[0]
    assert (own.section["model"], own.section["max_tokens"]) == (
        "embedded:chain/policy",
        64,
    )  # a quarter of the context
    with pytest.raises(UserError, match=r"--judge: .* is not a directory"):
        read_judge("/no/such/judge", None, None, policy)


@pytest.mark.parametrize(
    ("golds", "is_mathematics"),
    [(["4", "-1/2", r"\frac{3}{4}"], True), (["yes", "no"], False), (["A", "B", "C"], False), (["x+1", "2x"], True)],
)
def test_math_is_for_golds_with_numbers(golds: list[str], is_mathematics: bool):
    assert are_mathematics(golds) is is_mathematics


@pytest.mark.parametrize(
    ("response", "reward"),
    [("So the answer is B.", 1.0), ("**Answer:** B", 1.0), ("Answer: C\nAnswer: b", 0.0), ("B", 0.0)],
)
def test_the_pattern_for_other_golds(response: str, reward: float):
    found = ExactVerifier(ANSWER_PATTERN, numeric=True).verify(response, "B", StopReason.STOP)
    assert (found.reward or 0.0) == reward


def test_names():
    assert run_name("/models/Qwen2 0.5B", "data/My Sums.csv.gz") == "qwen2-0.5b-my-sums"
    assert run_name("org/Model", "task:gsm8k=/a/b.jsonl") == "model-gsm8k"  # the task, not its copy
    assert absolute_function("pkg.mod:f") == "pkg.mod:f"
    assert absolute_function("r.py:f") == f"{Path('r.py').absolute()}:f"


# --- the schema


def test_the_schema_knows_every_key_and_asks_for_none():
    schema = json.loads(config_schema())
    assert {"extends", "policy", "weigh"} <= set(schema["properties"])
    assert schema["$defs"]["WeighConfig"]["properties"]["beta"]["description"].startswith("Beta of Eq. 7")
    assert schema["$defs"]["TrainConfig"]["properties"]["dtype"]["enum"] == ["float32", "bfloat16"]
    assert schema["additionalProperties"] is False

    def required(node: Any) -> bool:
        nodes = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
        return (isinstance(node, dict) and isinstance(node.get("required"), list)) or any(map(required, nodes))

    assert not required(schema)


# --- the command


def test_init_needs_a_terminal_to_ask(bcpg: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    ended = bcpg("init", "--model", TINY)
    assert ended.code == 2
    assert "init needs --train" in ended.err
    assert list(tmp_path.iterdir()) == []


def test_init_on_a_terminal_asks_with_defaults(
    bcpg: Callable[..., Any], chains: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def answer(text: str, default: Any = None, **more: Any) -> Any:
        asked.append(text)
        own = {"problems to train on": str(chains), "model": TINY}
        return next((said for start, said in own.items() if text.startswith(start)), default)

    monkeypatch.setattr("typer.prompt", answer)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.chdir(tmp_path)
    ended = bcpg("init", "--out", "mine.yaml")
    assert ended.code == 0, ended.err
    assert len(asked) == 5
    assert "next: bcpg-cluster iterate --config mine.yaml --dry-run" in ended.out
    config = load_config(tmp_path / "mine.yaml")
    assert (config.name, config.policy.model, config.judges["judge"].kind) == ("mine", TINY, "llm")
