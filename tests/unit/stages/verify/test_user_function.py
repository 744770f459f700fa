"""stages/verify/user_function.py: what a reward function is told, by name and by place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from bcpg_cluster.errors import ConfigError, DataError
from bcpg_cluster.records import OutcomeStatus, Prompt, StopReason
from bcpg_cluster.stages.plugin import plugin_digest, plugin_name
from bcpg_cluster.stages.verify.function_process import BY_NAME, UnfitError, names_taken
from bcpg_cluster.stages.verify.line_process import LineProcess
from bcpg_cluster.stages.verify.user_function import FunctionVerifier

PROMPT = Prompt("p7", "What is 9 + 9?", "18")
STOP = StopReason.STOP
CONTENT = """
from own_numbers import RIGHT
def by_name(gold, response): return gold == RIGHT and response.strip() == "so 18"
def all_four(metadata, prompt, gold, response):
    return (metadata == {"prompt_id": "p7", "stop_reason": "stop", "full_response": "hm</think> so 18"}
            and prompt == "What is 9 + 9?" and gold == "18" and response == " so 18")
def only_prompt(prompt): return prompt == "What is 9 + 9?"
def keywords(**given): return sorted(given) == ["gold", "metadata", "prompt", "response"]
def by_place(answer, truth): return answer == " so 18" and truth == "18"
def with_option(response, gold, scale=1.0): return scale
def fails(response): raise RuntimeError(f"no network for {response.strip()}")
class Callable_:
    def __call__(self, response, metadata): return metadata["prompt_id"] == "p7"
instance = Callable_()
"""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., FunctionVerifier]]:
    (tmp_path / "own_numbers.py").write_text("RIGHT = '18'\n")
    (tmp_path / "own rewards.py").write_text(CONTENT)
    made: list[FunctionVerifier] = []

    def of(name: str, **options: str) -> FunctionVerifier:
        made.append(FunctionVerifier(f"{tmp_path / 'own rewards.py'}:{name}", time_limit_s=60.0, **options))  # type: ignore[arg-type]
        return made[-1]

    yield of
    for verifier in made:
        verifier.close()


@pytest.mark.parametrize(
    "name", ["by_name", "all_four", "only_prompt", "keywords", "by_place", "with_option", "instance"]
)
def test_a_function_gets_what_it_names(make: Callable[..., FunctionVerifier], name: str):
    result = make(name).verify_sample("hm</think> so 18", PROMPT, STOP)
    assert (result.status, result.reward, result.why) == (OutcomeStatus.VERIFIED, 1.0, "it scored 1")


def test_without_a_prompt_it_is_told_none(make: Callable[..., FunctionVerifier]):
    assert make("by_name").verify("so 18", "18", STOP).reward == 1.0
    assert make("only_prompt").verify("so 18", "18", STOP).reward == 0.0


def test_what_it_raises_is_said(make: Callable[..., FunctionVerifier]):
    result = make("fails").verify_sample("so 18", PROMPT, STOP)
    assert (result.status, result.reward) == (OutcomeStatus.VERIFIER_ERROR, None)
    assert result.why.endswith("RuntimeError: no network for so 18")
    assert "own rewards.py" in result.why  # where


def test_a_file_that_changed_since_the_start_is_refused(make: Callable[..., FunctionVerifier], tmp_path: Path):
    file = tmp_path / "own rewards.py"
    digest = plugin_digest(plugin_name(f"{file}:by_name", "k"), "k")
    assert make("by_name", digest=digest).verify("so 18", "18", STOP).reward == 1.0
    file.write_text(CONTENT + "\n# changed\n")
    with pytest.raises(ConfigError, match="has changed since the run was started"):
        make("by_name", digest=digest).verify("so 18", "18", STOP)


def _of(source: str) -> Callable[..., float]:
    function: Callable[..., float] = eval(source)
    return function


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("lambda response, gold: 1", ("response", "gold")),
        ("lambda gold, response: 1", ("gold", "response")),
        ("lambda metadata: 1", ("metadata",)),
        ("lambda prompt, k=1: 1", ("prompt",)),
        ("lambda **given: 1", BY_NAME),
        ("lambda response, **given: 1", BY_NAME),
        ("lambda *, gold: 1", ("gold",)),
        ("lambda answer, gold: 1", None),
        ("lambda response, truth: 1", None),
        ("lambda a, b, c=1: 1", None),
        ("lambda *both: 1", None),
        ("lambda response, gold, /: 1", None),
    ],
)
def test_which_names_a_function_takes(source: str, names: tuple[str, ...] | None):
    assert names_taken(_of(source)) == names


@pytest.mark.parametrize("source", ["lambda: 1", "lambda a: 1", "lambda a, b, c: 1", "lambda a, b, *, gold: 1"])
def test_functions_that_take_something_else(source: str):
    with pytest.raises(UnfitError, match="any of prompt, response, gold, metadata by name"):
        names_taken(_of(source))


def test_a_function_is_looked_for_once_however_many_golds_there_are(
    make: Callable[..., FunctionVerifier], monkeypatch: pytest.MonkeyPatch
):
    heard: list[object] = []
    ask = LineProcess.ask

    def listen(self: LineProcess, request: Mapping[str, object]) -> dict[str, object]:
        heard.append(request)
        return ask(self, request)

    monkeypatch.setattr(LineProcess, "ask", listen)
    verifier = make("by_name")
    for gold in ("18", "19", "20"):
        verifier.check_gold(gold)
    assert heard == [{}]
    with pytest.raises(DataError, match="is empty"):
        verifier.check_gold(" ")
    missing = make("nowhere")
    for _ in range(2):
        with pytest.raises(ConfigError):
            missing.check_gold("18")
