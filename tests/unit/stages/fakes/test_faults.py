"""stages/fakes/faults.py: a fake that ends its process at a text, as a drill's pool `env` asks for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from bcpg_cluster.stages.fakes.faults import DIES_AT

ASK = """
from bcpg_cluster.stages.fakes.faults import slowed
from bcpg_cluster.stages.fakes.generator import FakeGenerator
from bcpg_cluster.stages.fakes.judge import FakeJudge
from bcpg_cluster.stages.generate.protocol import GenerateRequest, Sampling
from bcpg_cluster.stages.judge.protocol import JudgeCase
FakeJudge("llm", faults=slowed()).judge([JudgeCase("12 + 3", ("15",))])
engine = FakeGenerator(faults=slowed())
engine.generate([GenerateRequest(engine.render([{"role": "user", "content": "7 * 6"}]), Sampling(8))])
print("lives")
"""


@pytest.mark.parametrize(("text", "lives"), [("", True), ("nowhere", True), ("2 + 3", False), ("7 *", False)])
def test_a_fake_that_dies_at_a_text(text: str, lives: bool):
    ended = subprocess.run(
        [sys.executable, "-c", ASK], env={**os.environ, DIES_AT: text}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == (0 if lives else -signal.SIGKILL), ended.stderr
    assert ("lives" in ended.stdout) == lives
