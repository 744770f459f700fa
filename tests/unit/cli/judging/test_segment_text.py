"""cli segment-text: a text is shown cut as the stage would cut it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.errors import DataError
from bcpg_cluster.stages.segment.segmenters import DelimiterSegmenter, StructuralSegmenter
from bcpg_cluster_cli.judging.segment_text import run_segment_text, word_pieces
from tests.judge_server import Server, completion, sends

TEXT = "We have 2\x1b[31m apples.\n\nWait, 3.\n\nSo $x=3$"


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    return str(path)


def test_steps_sizes_and_cues_are_printed(file: str, capsys: pytest.CaptureFixture[str]):
    run_segment_text(file, DelimiterSegmenter())
    shown = capsys.readouterr().out
    assert "step 1   words 10-15 (6)   cue: Wait\nWait, 3.\n" in shown
    assert "\x1b" not in shown  # the text's own control characters do not reach the terminal
    assert "2\u241b[31m apples." in shown
    assert "3 steps, 23 words: 6 / 7 / 10 a step (least / median / most); 2 begin with a cue; --tokenizer" in shown


@pytest.mark.parametrize("kind", ["confidence", "entropy"])
def test_a_text_has_no_log_probs(bcpg: Callable[..., Any], config_file: Path, file: str, kind: str):
    ended = bcpg("segment-text", file, "-c", config_file, "--set", f"segment.kind={kind}")
    assert ended.code == 2
    assert "reads what the sampler said of each token, which a text lacks" in ended.err


def test_a_model_cuts_a_text_and_its_absence_is_said(
    bcpg: Callable[..., Any], config_file: Path, tmp_path: Path, file: str
):
    server = Server()
    server.plays = [sends(completion('{"starts": [1, 3]}')), *[sends(completion("no"))] * 2]
    api = f"judges.api={{kind: openai, model: m, role: spare, endpoint: {{base_url: '{server.url}'}}}}"
    command = ("segment-text", file, "-c", config_file, "--set", api, "--set", "segment={kind: llm, judge: api}")
    cut, unread = bcpg(*command), bcpg(*command)
    server.close()
    assert cut.code == 0 and "2 steps, 23 words" in cut.out and not cut.err
    assert unread.code == 0 and "3 steps, 23 words" in unread.out
    assert "the model's answer was unreadable: cut by structure" in unread.err


def test_json_holds_every_step_whole(file: str, capsys: pytest.CaptureFixture[str]):
    run_segment_text(file, DelimiterSegmenter(), cues=("we",), as_json=True)
    content = json.loads(capsys.readouterr().out)
    assert content["tokenizer"] is None
    assert "".join(step["text"] for step in content["steps"]) == TEXT
    assert [step["cue"] for step in content["steps"]] == ["We", None, None]
    assert sum(step["num_tokens"] for step in content["steps"]) == content["num_tokens"] == 23


def test_a_model_counts_its_own_tokens(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"17+25=43\nwait\n17+25=42")))
    run_segment_text("-", StructuralSegmenter(), tokenizer="embedded:chain/policy")
    shown = capsys.readouterr().out
    assert "step 0   tokens 0-8 (9)\n17+25=43\n" in shown
    assert "cue: wait\nwait\n17+25=42\n2 steps, " in shown


def test_a_tokenizer_that_cannot_give_the_text_back_is_refused(tmp_path: Path):
    (tmp_path / "x").write_text("\u00e9t\u00e9 \U0001f389")
    with pytest.raises(DataError, match="gives back"):
        run_segment_text(str(tmp_path / "x"), StructuralSegmenter(), tokenizer="embedded:chain/policy")


def test_texts_and_tokenizers_that_cannot_be_read(tmp_path: Path, file: str):
    with pytest.raises(DataError, match="cannot be read"):
        run_segment_text(str(tmp_path / "nothing"), StructuralSegmenter())
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="cannot be read"):
        run_segment_text(str(tmp_path / "latin"), StructuralSegmenter())
    with pytest.raises(DataError, match="gives no tokenizer"):
        run_segment_text(file, StructuralSegmenter(), tokenizer=str(tmp_path))


def test_an_empty_text_has_no_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "empty").touch()
    run_segment_text(str(tmp_path / "empty"), StructuralSegmenter())
    assert capsys.readouterr().out.startswith("0 steps, 0 words; 0 begin")


def test_words_join_to_the_text():
    text = " a  b_c\u00e9,\r\n\u4e2d\u6587 \U0001f389x"
    assert "".join(word_pieces(text)) == text
    assert word_pieces("So 42.") == ["So", " 42", "."]


ZH = "首先算出面积为63。然后除以9得到7。等等，这里没有考虑切割。让我重新检查一下。所以答案是7。"
CRLF = "Let the side be 4.\r\n\r\nThen the area is 16.\r\n\r\nSo the volume is 64.\r\n"
NESTED = "````md\n```python\na\n\nb\n```\n\nwait, inner\n````\n\nAfter.\n"


@pytest.mark.parametrize(
    ("text", "settings", "begins", "num_cues"),
    [
        (CRLF, ["segment.kind=delimiter", "segment.merge=false"], ["Let", "Then", "So"], 0),
        (
            ZH,
            ['segment.cues=["等等","让我","所以"]', "segment.cues_inside_lines=true"],
            ["首先", "等等", "让我", "所以"],
            3,
        ),
        (NESTED, [], ["````md", "After."], 0),
    ],
    ids=["CRLF", "Chinese cues", "a fence in a fence"],
)
def test_by_the_command(
    text: str, settings: list[str], begins: list[str], num_cues: int, tmp_path: Path, bcpg: Callable[..., Any]
):
    (tmp_path / "t.txt").write_bytes(text.encode())
    asked = ["segment-text", tmp_path / "t.txt", *(w for setting in settings for w in ("--set", setting))]
    steps = json.loads(bcpg(*asked, "--json").out)["steps"]
    assert len(steps) == len(begins)
    assert all(step["text"].startswith(word) for step, word in zip(steps, begins, strict=True))
    assert f"{len(steps)} steps" in (shown := bcpg(*asked).out)
    assert f"{num_cues} begin with a cue" in shown
