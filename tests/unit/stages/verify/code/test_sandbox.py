"""stages/verify/code/sandbox.py: what a program sees and may use, and how each end is told from the others."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.verify.code import isolation, sandbox
from bcpg_cluster.stages.verify.code.isolation import Isolation
from bcpg_cluster.stages.verify.code.limits import Limits, RunStatus
from bcpg_cluster.stages.verify.code.sandbox import Sandbox
from tests.unit.stages.verify.code.as_user import ROOT, command_as_user

LIMITS = Limits(cpu_s=1, wall_s=60.0, idle_s=5.0, memory_gib=0.5, output_bytes=100_000, file_mib=1)


@pytest.fixture(scope="module")
def isolated() -> Sandbox:
    try:
        return Sandbox(LIMITS)
    except ConfigError as error:
        pytest.skip(f"this machine does not isolate programs: {error}")


@pytest.fixture(scope="module", params=["isolated", "unsandboxed"])
def any_sandbox(request: pytest.FixtureRequest) -> Sandbox:
    if request.param == "isolated":
        chosen: Sandbox = request.getfixturevalue("isolated")
        return chosen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isolation, "missing_programs", lambda: ["bwrap"])
        made = Sandbox(LIMITS, allow_unsandboxed=True)
    assert not made.is_isolated
    return made


def test_root_is_given_up(isolated: Sandbox):
    assert (
        isolated.run("import os; print(os.getuid(), os.getgid(), 0 in os.getgroups())").stdout == b"65534 65534 False\n"
    )
    expected = {Isolation.ROOT_DROPPED, Isolation.ROOT_DROPPED_INSIDE} if os.geteuid() == 0 else {Isolation.AS_USER}
    assert isolated.isolation in expected


def test_an_interpreter_in_a_closed_directory_is_found_and_its_neighbours_are_not():
    """A checkout, and its virtual environment, may lie below /tmp or in a directory that only its owner may enter."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="bcpg-test-") as folder:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", f"{folder}/venv"], check=True)
        Path(folder, "secret").touch()
        program = (
            f"import os, sys; print(os.path.exists({folder!r}), os.access(sys.prefix, os.W_OK), sys.version_info[:2])"
        )
        code = (
            "from bcpg_cluster.stages.verify.code.sandbox import Sandbox; "
            f"print(Sandbox().run({program!r}).stdout.decode())"
        )
        ended = subprocess.run(
            [f"{folder}/venv/bin/python", "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert ended.stdout.strip() == f"False False {sys.version_info[:2]}"


def test_a_user_isolates_as_root_does(isolated: Sandbox):
    program = "import os; print(os.getuid(), sorted(os.listdir('/dev')), os.listdir('.'), os.path.exists('/proc/1'))"
    code = f"from bcpg_cluster.stages.verify.code.sandbox import Sandbox; print(Sandbox().run({program!r}).stdout)"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command_as_user(["-c", code]), capture_output=True, text=True, check=True, env=env)
    assert ended.stdout.strip() == str(isolated.run(program).stdout)


def test_input_output_and_exit_codes(any_sandbox: Sandbox):
    result = any_sandbox.run("import sys; print(input()); print('e', file=sys.stderr); sys.exit(3)", "ü\n".encode())
    assert (result.status, result.exit_code) == (RunStatus.ENDED, 3)
    assert (result.stdout.decode(), result.stderr) == ("ü\n", b"e\n")


def test_large_input_is_read_or_not(any_sandbox: Sandbox):
    data = b"x" * 3_000_000
    assert any_sandbox.run("import sys; print(len(sys.stdin.read()))", data).stdout == b"3000000\n"
    assert any_sandbox.run("print(1)", data).stdout == b"1\n"


def test_a_program_longer_than_an_argument_may_be(any_sandbox: Sandbox):
    assert any_sandbox.run(f"print(len({'x' * 300_000!r}))").stdout == b"300000\n"


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("while True: pass", RunStatus.CPU_LIMIT),
        ("while True: print('x' * 1000)", RunStatus.OUTPUT_LIMIT),
        ("import sys; sys.stdout.write('x' * 100_001)", RunStatus.OUTPUT_LIMIT),
    ],
)
def test_limits(any_sandbox: Sandbox, program: str, status: RunStatus):
    result = any_sandbox.run(program)
    assert (result.status, result.exit_code) == (status, None)


def test_the_limit_on_output_may_follow_what_is_expected(any_sandbox: Sandbox):
    result = any_sandbox.run("print('x' * 300_000)", output_bytes=300_001)
    assert (result.status, len(result.stdout)) == (RunStatus.ENDED, 300_001)


def test_memory_and_files_are_limited(any_sandbox: Sandbox):
    assert b"MemoryError" in any_sandbox.run("x = bytearray(2**30)").stderr
    assert (
        b"File too large"
        in any_sandbox.run("open('f', 'wb', buffering=0).write(b'x' * 2**21)\nopen('f', 'ab', 0).write(b'x')").stderr
    )


def test_all_files_together_are_limited(isolated: Sandbox):
    program = "for n in range(9): open(str(n), 'wb').write(b'x' * 2**19)"
    assert b"No space left" in isolated.run(program).stderr


def test_memory_of_several_processes_is_added_up(isolated: Sandbox):
    program = (
        "import os, time\nfor n in range(3):\n    if os.fork() == 0:\n        x = bytearray(300 << 20)\n"
        "        for at in range(0, len(x), 4096): x[at] = 1\n        time.sleep(1000)\ntime.sleep(1000)"
    )
    roomy = Sandbox(replace(LIMITS, cpu_s=5))
    assert roomy.run(program).status is RunStatus.MEMORY_LIMIT


def test_a_crash_is_an_end_a_kill_too_and_waiting_is_idle(any_sandbox: Sandbox):
    for number in (9, 11):
        crash = any_sandbox.run(f"import os; os.kill(os.getpid(), {number})")
        assert (crash.status, crash.exit_code) == (RunStatus.ENDED, -number)
    impatient = _with(any_sandbox, replace(LIMITS, idle_s=0.2))
    assert impatient.run("import time; time.sleep(1000)").status is RunStatus.IDLE
    assert (
        _with(any_sandbox, replace(LIMITS, wall_s=0.2)).run("import time; time.sleep(1000)").status is RunStatus.OVERDUE
    )


def _with(made: Sandbox, limits: Limits) -> Sandbox:
    other = Sandbox.__new__(Sandbox)
    other.__dict__ = {**made.__dict__, "limits": limits}
    return other


def test_its_directory_and_environment_are_its_own(any_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_API_KEY", "secret")
    look = "import os; print(os.listdir('.'), 'MY_API_KEY' in os.environ, os.environ['HOME'] == os.getcwd()); open('f', 'w')"
    for _ in range(2):
        result = any_sandbox.run(look)
        assert (result.exit_code, result.stdout) == (0, b"[] False True\n")


def test_every_run_is_the_same(isolated: Sandbox):
    """Hashes, addresses, chance, locale and calendar: nothing of a program's output changes from run to run."""
    program = (
        "import random, time, datetime, locale\n"
        "print(hash('abc'), hash(None), id(object()), [x for x in {None, print, 'a', 'b'}])\n"
        "print(random.random(), random.Random(3).random(), locale.getlocale(), time.tzname)\n"
        "print(int(time.time()), datetime.datetime.now().date(), datetime.date.today(), time.localtime().tm_year)\n"
        "print(isinstance(datetime.datetime(2020, 1, 1), datetime.datetime), type(datetime.datetime.now()).__name__)"
    )
    first = isolated.run(program)
    assert first.exit_code == 0, first.stderr
    assert [isolated.run(program).stdout for _ in range(3)] == [first.stdout] * 3
    assert b"\n1700000000 2023-11-14 2023-11-14 2023\nTrue datetime\n" in first.stdout


def test_numbers_of_any_length_and_exit_are_there(any_sandbox: Sandbox):
    assert any_sandbox.run("print(len(str(10**5000))); exit()").stdout == b"5001\n"


def test_named_packages_can_be_imported_and_no_others(isolated: Sandbox):
    assert isolated.run("import numpy; print(numpy.arange(3).sum())").stdout == b"3\n"
    assert b"No module named 'yaml'" in isolated.run("import yaml").stderr
    assert b"No module named 'numpy'" in Sandbox(LIMITS, packages=()).run("import numpy").stderr


def test_runs_do_not_disturb_each_other(isolated: Sandbox):
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda n: isolated.run("print(input())", f"{n}\n".encode()).stdout, range(12))
    assert list(results) == [f"{n}\n".encode() for n in range(12)]


def test_a_directory_however_deep_is_removed(any_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = "import os\nfor _ in range(1500): os.mkdir('d'); os.chdir('d')\nos.chmod('.', 0)\nprint('ok')"
    assert any_sandbox.run(program).stdout == b"ok\n"
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_refused_unless_allowed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(isolation, "missing_programs", lambda: ["bwrap"])
    with pytest.raises(ConfigError, match="bwrap not installed") as caught:
        Sandbox(LIMITS)
    assert "allow_unsandboxed" in caught.value.remedy
    allowed = Sandbox(LIMITS, allow_unsandboxed=True)
    assert not allowed.is_isolated
    assert allowed.run("print(1)").stdout == b"1\n"


def test_a_machine_without_namespaces_is_refused(monkeypatch: pytest.MonkeyPatch, isolated: Sandbox):
    monkeypatch.setattr(isolation, "_NAMESPACES", ("user", "no-such"))
    with pytest.raises(ConfigError, match=r"cannot be isolated on this machine: .*no-such"):
        Sandbox(LIMITS)


def test_a_machine_without_the_filter_is_refused(monkeypatch: pytest.MonkeyPatch):
    def absent() -> bytes:
        raise OSError("libseccomp.so.2: cannot open shared object file")

    monkeypatch.setattr(sandbox, "filter_program", absent)
    with pytest.raises(ConfigError, match=r"no filter for system calls: libseccomp") as caught:
        Sandbox(LIMITS)
    assert "libseccomp" in caught.value.remedy


def test_a_sandbox_that_does_not_start_says_nothing_about_the_program(
    monkeypatch: pytest.MonkeyPatch, isolated: Sandbox
):
    monkeypatch.setattr(isolation, "interpreter", lambda: "/nowhere/python")
    result = isolated.run("print(1)")
    assert (result.status, result.exit_code) == (RunStatus.FAILED, None)
    assert "/nowhere/python" in result.message
