"""Programs that try to take a reward, to get out, or to bring the machine down: all of them, as root and as a user."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.stages.verify.code.isolation import missing_programs
from tests.unit.stages.verify.code.as_user import ROOT, USER, command_as_user
from tests.unit.stages.verify.code.own_attacks import attacks as own_attacks

GIVEN = [json.loads(line) for line in (ROOT / "tests/data/attacks/attacks.jsonl").read_text().splitlines()]
ATTACKS = [*GIVEN, *own_attacks()]
NAMES = [f"{number}-{attack['kind']}-{attack['name']}" for number, attack in enumerate(ATTACKS)]
RUNNER = str(Path(__file__).with_name("attack_runner.py"))

pytestmark = pytest.mark.skipif(bool(missing_programs()), reason=f"not installed: {missing_programs()}")


@pytest.fixture(scope="module", params=["root", "user"])
def outcome(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """What came of all attacks, run once as root and once as a user; what they could have reached is there to be reached."""
    if request.param == "root" and os.geteuid() != 0:
        pytest.skip("only root can run them as root")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as far, tempfile.TemporaryDirectory() as near:
        for folder in (far, near):
            Path(folder).chmod(0o755)
        home, outside, outside_tmp = Path(far, "home"), Path(far, "outside"), Path(near, "outside")
        for folder in (home / ".ray", outside, outside_tmp):
            folder.mkdir(parents=True)
        for folder in (home, outside, outside_tmp):
            folder.chmod(0o777)
        (home / ".ray/auth_token").write_text("secret")
        gold = [{"answer": json.dumps(attack["gold"])} for attack in GIVEN[:2]]
        (outside / "gold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gold))
        os.mkfifo(outside / "fifo", 0o666)
        (outside / "fifo").chmod(0o666)
        fifo = os.open(outside / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(outside / "sock"))
        (outside / "sock").chmod(0o777)
        server.listen()
        server.setblocking(False)
        rows = Path(near, "attacks.jsonl")
        rows.write_text("".join(json.dumps(attack) + "\n" for attack in ATTACKS))
        arguments = [RUNNER, str(rows), str(home), str(outside), str(outside_tmp)]
        command = [sys.executable, *arguments] if request.param == "root" else command_as_user(arguments)
        before = _files(far, near)
        ended = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), "SECRET_API_KEY": "secret"},
        )
        assert ended.returncode == 0, ended.stderr[-3000:]
        found: dict[str, Any] = json.loads(ended.stdout)
        found["identity"], found["files"], found["files_before"] = request.param, _files(far, near), before
        found["fifo"] = os.read(fifo, 100)
        try:
            found["caller"] = server.accept()
        except BlockingIOError:
            found["caller"] = None
        yield found
        os.close(fifo)
        server.close()


def _files(*folders: str) -> list[str]:
    return sorted(str(path) for folder in folders for path in Path(folder).rglob("*"))


@pytest.mark.parametrize("number", range(len(ATTACKS)), ids=NAMES)
def test_an_attack(outcome: dict[str, Any], number: int):
    attack, found = ATTACKS[number], outcome["results"][number]
    if attack["kind"] == "false_pass":
        assert (found["status"], found["reward"]) == ("verified", 0.0)
        return
    assert found["status"] not in ("failed", "killed", "starved"), found
    if attack["kind"] == "escape" and attack["must_not_print"]:
        assert attack["must_not_print"] not in found["said"]


def test_nothing_is_left_behind(outcome: dict[str, Any]):
    assert outcome["left"] == 0
    assert outcome["files"] == outcome["files_before"]
    assert (outcome["fifo"], outcome["caller"]) == (b"", None)
    assert outcome["user"] == (0 if outcome["identity"] == "root" else USER if os.geteuid() == 0 else os.getuid())
    assert outcome["isolation"].startswith("bubblewrap") and shutil.which("bwrap")


def test_every_run_hashes_alike(outcome: dict[str, Any]):
    number = next(n for n, attack in enumerate(ATTACKS) if attack["name"] == "hash seed determinism")
    assert outcome["results"][number]["said"] == "-4594863902769663758\n"
