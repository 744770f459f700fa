"""What models, endpoints, files and people wrote may hold anything; a terminal gets none of what could steer it."""

from __future__ import annotations

import json
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table

from bcpg_cluster.config.load import parse_config
from bcpg_cluster.stages.fakes.generator import FakeGenerator
from bcpg_cluster.watch.observer import Noted, Retried
from bcpg_cluster_cli.console import ConsoleObserver
from bcpg_cluster_cli.terminal import Terminal, say, shown

NASTY = "\x1b[2J\x1b]0;owned\x07\x9b31m\x7f\x00\u202eabc\u2066\u061c\r"
TURNS = {0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A)}


def steering(text: str) -> set[str]:
    """The characters of ``text`` that a terminal obeys instead of showing them."""
    return {c for c in text if (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t") or ord(c) in TURNS}


# --- the function and the console ------------------------------------------------------------------------------------


@given(st.text(st.characters(codec=None), max_size=60))
def test_whatever_is_shown_steers_nothing(text: str) -> None:
    assert not steering(shown(text))
    assert shown(shown(text)) == shown(text)
    if not steering(text):
        assert shown(text) == text


def test_it_is_shown() -> None:
    assert shown("a\x1b[2J\r\x7f\x9b\u202e\ud800\n\té") == "a␛[2J␍␡\\x9b\\u202e\\ud800\n\té"


@given(st.text(st.characters(codec=None), max_size=60))
def test_whatever_is_printed_steers_nothing(text: str) -> None:
    with Terminal(width=60).capture() as captured:
        pass
    console = Terminal(width=60)
    table = Table("x", title=text)
    table.add_row(text)
    with console.capture() as captured:
        console.print(text, markup=False, highlight=False)
        console.print(table)
        observer = ConsoleObserver(console)
        observer.hear(Noted(text))
        observer.hear(Retried(text, text))
    assert not steering(captured.get())


def test_a_table_keeps_its_borders() -> None:
    console = Terminal(width=40)
    table = Table("name", width=20)
    table.add_row(NASTY)
    with console.capture() as captured:
        console.print(table)
    assert {len(line) for line in captured.get().splitlines()} == {20}


def test_say(capsys: pytest.CaptureFixture[str]) -> None:
    say(NASTY, is_error=True)
    assert capsys.readouterr().err == shown(NASTY) + "\n"


# --- every command that prints what others wrote ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def nasty_run(
    run_rounds: Callable[..., Any],
    fakes_content: Callable[[], dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A finished round whose prompt ids and responses are full of sequences; its config lies beside it."""
    folder = tmp_path_factory.mktemp("nasty")
    content = fakes_content()
    for name in ("train", "test"):
        lines = []
        for line in Path(content["prompts"][name]).read_text().splitlines():
            prompt = json.loads(line)
            prompt["prompt_id"] += NASTY
            lines.append(json.dumps(prompt) + "\n")
        path = folder / f"{name}{NASTY.replace(chr(0), '')}.jsonl"
        path.write_text("".join(lines))
        content["prompts"][name] = str(path)
    content["prompts"]["per_round"], content["evaluate"]["num_prompts"] = 8, 4
    draw = FakeGenerator._text

    def nasty(self: FakeGenerator, prompt: str, rng: random.Random, max_tokens: int) -> str:
        return draw(self, prompt, rng, max_tokens).replace("=", NASTY + "=", 1)

    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeGenerator, "_text", nasty)
        run_rounds(folder / "run", parse_config(content, "test"), 1)
    samples = [{"response": f"\\boxed{{{NASTY}}}", "gold": NASTY, "expected": 1.0}]
    (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    (folder / f"text{NASTY.replace(chr(0), '')}.txt").write_text(f"First {NASTY}.\n\nWait, {NASTY}\n")
    return folder


PRINTING: dict[str, tuple[str, ...]] = {
    "inspect": ("inspect", "--run-dir", "RUN", "--round", "1"),
    "inspect as JSON": ("inspect", "--run-dir", "RUN", "--round", "1", "--json"),
    "inspect what is not there": ("inspect", "--run-dir", "RUN", "--round", "1", "--prompt", NASTY),
    "status": ("status", "--run-dir", "RUN"),
    "status as JSON": ("status", "--run-dir", "RUN", "--json"),
    "disagreements": ("disagreements", "--run-dir", "RUN", "--round", "1"),
    "disagreements as JSON": ("disagreements", "--run-dir", "RUN", "--round", "1", "--json"),
    "segment-text": ("segment-text", "TEXT"),
    "segment-text as JSON": ("segment-text", "TEXT", "--json"),
    "validate": ("validate", "--config", "CONFIG"),
    "validate as JSON": ("validate", "--config", "CONFIG", "--json"),
    "plan": ("plan", "--config", "CONFIG"),
    "iterate": ("iterate", "--config", "CONFIG", "--run-dir", "RUN", "--inline"),
    "grade": ("grade", "SAMPLES", "--config", "CONFIG", "--set", "verify.kind=exact"),
    "reproduce": ("reproduce", "check", "RUN"),
    "view": ("view", "--run-dir", "RUN", "--bundle", f"OUT/{NASTY}.html"),
    "export": ("export", "steps", "--run-dir", "RUN", "--out", f"OUT/{NASTY}"),
    "a config that is not there": ("validate", "--config", f"{NASTY}.yaml"),
    "a key that is not there": ("validate", "--config", "CONFIG", "--set", f"{NASTY}=1"),
    "a value that is wrong": ("validate", "--config", "CONFIG", "--set", f"weigh.beta=a{NASTY}"),
    "a run that is not there": ("status", "--run-dir", f"OUT/{NASTY}"),
    "an option that is not there": ("status", f"--{NASTY}"),
    "an argument too many": ("status", NASTY),
    "a command that is not there": (NASTY,),
    "scale": ("scale", f"{NASTY}=1", "--run-dir", "RUN"),
    "stage": ("stage", NASTY, "--run-dir", "RUN", "--round", "1"),
}


@pytest.mark.parametrize("arguments", PRINTING.values(), ids=PRINTING.keys())
def test_nothing_steers_the_terminal(
    arguments: tuple[str, ...], nasty_run: Path, tmp_path: Path, bcpg: Callable[..., Any]
) -> None:
    places = {
        "RUN": nasty_run / "run",
        "CONFIG": nasty_run / "config.yaml",
        "SAMPLES": nasty_run / "samples.jsonl",
        "TEXT": next(nasty_run.glob("text*.txt")),
    }
    arguments = tuple(argument.replace("\0", "").replace("OUT", str(tmp_path)) for argument in arguments)
    ended = bcpg(*(places.get(argument, argument) for argument in arguments))
    assert ended.code in (0, 1, 2), ended.err
    assert "Traceback" not in ended.err
    assert ended.out + ended.err
    assert not steering(ended.out + ended.err), ended
    if arguments[0] in ("inspect", "disagreements", "segment-text", "grade", "view", "export"):  # they got that far
        assert "␛" in ended.out + ended.err or "\\u001b" in ended.out
