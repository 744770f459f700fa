"""cli engine_log: whatever an engine prints, at any level, is in the file; the command's lines are not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bcpg_cluster_cli.judging.engine_log import engine_log


@pytest.mark.parametrize("stderr", [False, True])
def test_prints_of_engines_and_their_processes_go_to_the_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stderr: bool
):
    monkeypatch.setenv("SAID", "mine")
    monkeypatch.delenv("QUIET_BY_ENGINE_LOG", raising=False)
    log = tmp_path / "engines.log"
    log.write_text("earlier\n")
    print("before")
    with engine_log(log, {"SAID": "theirs", "QUIET_BY_ENGINE_LOG": "1"}, stderr=stderr) as console:
        os.write(1, b"from C\n")
        subprocess.run(
            [sys.executable, "-c", "import sys; print('child'); print('error', file=sys.stderr)"], check=True
        )
        console.write("progress\n")
        assert (os.environ["SAID"], os.environ["QUIET_BY_ENGINE_LOG"]) == ("mine", "1")
    monkeypatch.delenv("QUIET_BY_ENGINE_LOG")
    print("after")
    said = capfd.readouterr()
    assert said.out == ("before\nafter\n" if stderr else "before\nprogress\nafter\n")
    assert said.err == ("progress\n" if stderr else "")
    assert sorted(log.read_text().split()) == sorted(["earlier", "from", "C", "child", "error"])


def test_the_streams_are_back_after_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with pytest.raises(RuntimeError), engine_log(tmp_path / "engines.log", {}):
        raise RuntimeError("engine")
    os.write(1, b"back\n")
    assert capfd.readouterr().out == "back\n"
