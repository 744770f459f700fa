"""rewards/sandbox.py: what a program cannot do, and how each end is told from the others."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bcpg_cluster.stages.verify.sandbox import Limits, RunStatus, Sandbox

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.verify import sandbox as module

LIMITS = Limits(cpu_s=1, wall_s=60.0, memory_gib=0.5, output_bytes=100_000)


@pytest.fixture(scope="module")
def isolated() -> Sandbox:
    try:
        return Sandbox(LIMITS)
    except ConfigError as error:
        pytest.skip(f"this machine does not allow namespaces: {error}")


@pytest.fixture(scope="module", params=["isolated", "unsandboxed"])
def any_sandbox(request: pytest.FixtureRequest) -> Sandbox:
    if request.param == "isolated":
        chosen: Sandbox = request.getfixturevalue("isolated")
        return chosen
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LAUNCHER", Path("/nowhere"))
        sandbox = Sandbox(LIMITS, allow_unsandboxed=True)
    assert not sandbox.is_isolated
    return sandbox


def test_an_interpreter_in_a_hidden_place_is_found(isolated: Sandbox):
    """A checkout, and its virtual environment, may lie below /tmp: that stays hidden, but for the environment."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="bcpg-test-") as folder:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", f"{folder}/venv"], check=True)
        program = f"import os; print(sorted(os.listdir({folder!r})), os.access({folder!r} + '/venv', os.W_OK))"
        Path(folder, "secret").touch()
        code = (
            f"from bcpg_cluster.stages.verify.sandbox import Sandbox; print(Sandbox().run({program!r}).stdout.decode())"
        )
        ended = subprocess.run(
            [f"{folder}/venv/bin/python", "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": str(Path(module.__file__).parents[3])},
        )
        assert ended.stdout.strip() == "['venv'] False"


def test_input_output_and_exit_codes(any_sandbox: Sandbox):
    result = any_sandbox.run("import sys; print(input()); print('e', file=sys.stderr); sys.exit(3)", "ü\n".encode())
    assert (result.status, result.exit_code) == (RunStatus.ENDED, 3)
    assert (result.stdout.decode(), result.stderr) == ("ü\n", b"e\n")


def test_large_input_is_read_or_not(any_sandbox: Sandbox):
    data = b"x" * 3_000_000
    assert any_sandbox.run("import sys; print(len(sys.stdin.read()))", data).stdout == b"3000000\n"
    assert any_sandbox.run("print(1)", data).stdout == b"1\n"


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("while True: pass", RunStatus.CPU_LIMIT),
        ("while True: print('x' * 1000)", RunStatus.OUTPUT_LIMIT),
        ("import sys; sys.stdout.write('x' * 100_001)", RunStatus.OUTPUT_LIMIT),
        ("import os; os.kill(os.getpid(), 9)", RunStatus.KILLED),
    ],
)
def test_limits(any_sandbox: Sandbox, program: str, status: RunStatus):
    result = any_sandbox.run(program)
    assert (result.status, result.exit_code) == (status, None)


def test_a_program_that_ignores_the_signal_is_killed():
    """In one way only (it takes two seconds of processor): the kernel's limit is the same in both."""
    result = Sandbox(LIMITS, allow_unsandboxed=True).run(
        "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    )
    assert (result.status, result.exit_code) == (RunStatus.CPU_LIMIT, None)


def test_memory_and_files_are_limited(any_sandbox: Sandbox):
    assert b"MemoryError" in any_sandbox.run("x = bytearray(2**30)").stderr
    assert (
        b"File too large"
        in any_sandbox.run(
            "open('f', 'wb', buffering=0).write(b'x' * 100_001) \nf = open('f', 'ab', buffering=0); f.write(b'x')"
        ).stderr
    )


def test_a_crash_is_an_end_and_waiting_is_overdue(any_sandbox: Sandbox):
    crash = any_sandbox.run("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert (crash.status, crash.exit_code) == (RunStatus.ENDED, -11)
    patient = Sandbox.__new__(Sandbox)
    patient.limits, patient.is_isolated = Limits(wall_s=0.5), any_sandbox.is_isolated
    assert patient.run("import time; time.sleep(1000)").status is RunStatus.OVERDUE


def test_its_directory_and_environment_are_its_own(any_sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_API_KEY", "secret")
    look = "import os; print(os.listdir('.'), 'MY_API_KEY' in os.environ, os.environ['HOME'] == os.getcwd()); open('f', 'w')"
    for _ in range(2):
        result = any_sandbox.run(look)
        assert (result.exit_code, result.stdout) == (0, b"['program.py'] False True\n")


def test_nothing_is_left_behind(isolated: Sandbox):
    """A child that leaves the process group and closes nothing ends with the program."""
    program = "import os, time\nif os.fork() == 0:\n    os.setsid(); time.sleep(1000)\nprint(os.getpid())"
    result = isolated.run(program)
    assert (result.status, result.exit_code) == (RunStatus.ENDED, 0)
    marked = [p for p in Path("/proc").glob("[0-9]*/cmdline") if b"bcpg-sandbox-" in _read(p)]
    assert marked == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_no_network_no_files_no_other_process(isolated: Sandbox, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = isolated.run(f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)")
    assert b"OSError" in result.stderr and result.exit_code == 1
    (tmp_path / "kept").write_text("x")
    assert b"No such file" in isolated.run(f"print(open({str(tmp_path / 'kept')!r}).read())").stderr  # under /tmp
    here = str(Path(__file__).parent / "written-by-a-test")
    assert isolated.run(f"open({here!r}, 'w')").exit_code == 1
    assert not Path(here).exists()
    counted = isolated.run("import os; print(sum(name.isdigit() for name in os.listdir('/proc')))")
    assert int(counted.stdout) <= 2
    remount = "import ctypes; print(ctypes.CDLL(None).mount(b'none', b'/', None, 32 | 4096, None))"
    assert isolated.run(remount).stdout == b"-1\n"


def test_runs_do_not_disturb_each_other(isolated: Sandbox):
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda n: isolated.run("print(input())", f"{n}\n".encode()).stdout, range(12))
    assert list(results) == [f"{n}\n".encode() for n in range(12)]


def test_a_machine_without_namespaces_is_refused_unless_allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    launcher = module._LAUNCHER.read_text()
    broken = tmp_path / "launcher.py"
    broken.write_text(
        launcher.replace(
            "def enter_namespaces() -> None:",
            "def enter_namespaces() -> None:\n    raise PermissionError(1, 'not here')\n",
        )
    )
    monkeypatch.setattr(module, "_LAUNCHER", broken)
    with pytest.raises(ConfigError, match=r"cannot be isolated on this machine: .*not here") as caught:
        Sandbox(LIMITS)
    assert "allow_unsandboxed" in caught.value.remedy
    allowed = Sandbox(LIMITS, allow_unsandboxed=True)
    assert not allowed.is_isolated
    assert allowed.run("print(1)").stdout == b"1\n"


def test_a_sandbox_that_does_not_start_says_nothing_about_the_program(
    monkeypatch: pytest.MonkeyPatch, isolated: Sandbox
):
    monkeypatch.setattr(module, "_LAUNCHER", Path("/nowhere"))
    result = isolated.run("print(1)")
    assert (result.status, result.exit_code) == (RunStatus.FAILED, None)
    assert result.message
