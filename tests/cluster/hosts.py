"""Several hosts on one machine, for the test of the real `ray up`: network namespaces with a bridge between them.

Each host has an address of its own, its own processes, host name, /tmp, /dev/shm and home, and an ssh server. All see the
directory ``shared`` as /mnt/shared, as they would see a network file system. Needs root, and Debian's openssh-server and rsync.

    python -m tests.cluster.hosts --clean      removes what a killed test left (nothing without the test's names)
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NAME = "bcpgh"  # every namespace, interface and host carries it
NETWORK = "10.77.0"
BRIDGE = f"{NAME}br"
SHARED = Path("/mnt/shared")
_PROGRAMS = {
    "ip": "iproute2",
    "sshd": "openssh-server",
    "rsync": "rsync",
    "ssh": "openssh-client",
    "unshare": "util-linux",
}

# The first process of a host: makes it look like a machine, then is its ssh server and reaps its orphans.
_BOOT = """
set -e
hostname {name}
ip link set lo up
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/home /mnt/shared /mnt/tmp /mnt/checkout /mnt/python /run/sshd
mount --bind {checkout} /mnt/checkout
mount --bind {python} /mnt/python
mount --bind {folder}/home /mnt/home
mount --bind {shared} /mnt/shared
mount --bind {folder}/tmp /mnt/tmp
mount --bind {folder}/passwd /etc/passwd
mount --bind {folder}/hosts /etc/hosts
mount -t tmpfs -o size=8g,mode=1777 tmpfs /dev/shm
mount --bind /mnt/tmp /tmp
# A checkout below /tmp, and its packages, stay where they are.
[ -e {checkout}/tests ] || {{ mkdir -p {checkout}; mount --bind /mnt/checkout {checkout}; }}
[ -e {python}/bin ] || {{ mkdir -p {python}; mount --bind /mnt/python {python}; }}
/usr/sbin/sshd -D -e -f /dev/null -h /mnt/home/.ssh/host_key -o ListenAddress={address} -o PidFile=none \\
    -o AuthorizedKeysFile=/mnt/home/.ssh/authorized_keys -o StrictModes=no -o UsePAM=no -o PermitRootLogin=yes &
while true; do wait -n || sleep 1; done
"""


def missing_parts() -> str | None:
    """Why hosts cannot be made here; ``None`` when they can."""
    if os.geteuid():
        return "network namespaces need root"
    packages = [package for program, package in _PROGRAMS.items() if shutil.which(program, path=_path()) is None]
    if packages:
        return f"missing Debian packages: {', '.join(packages)}"
    tried = subprocess.run(
        ["unshare", "--net", "--pid", "--mount", "--fork", "--mount-proc", "true"], capture_output=True
    )
    return None if tried.returncode == 0 else f"the kernel allows no namespaces: {tried.stderr.decode().strip()}"


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


@dataclass
class Host:
    """One host. ``folder`` holds its home and /tmp, as this machine sees them."""

    name: str
    address: str
    folder: Path
    key: Path
    boot: subprocess.Popen[bytes] | None = None

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def ssh(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command there, in a login shell."""
        return subprocess.run([*self.ssh_words, command], capture_output=True, text=True)

    @property
    def ssh_words(self) -> list[str]:
        """What comes before a command that is to run there."""
        options = ["-i", str(self.key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        options += ["-o", "ConnectTimeout=5", "-o", "LogLevel=ERROR"]
        return ["ssh", *options, f"root@{self.address}"]

    def cut(self) -> None:
        """Take the link away: its processes go on and reach nobody."""
        _run("ip", "link", "set", f"{self.name}v", "down")

    def mend(self) -> None:
        """Give the link back."""
        _run("ip", "link", "set", f"{self.name}v", "up")

    def start(self, shared: Path) -> None:
        """Boot it (again): nothing runs there but the ssh server."""
        script = _BOOT.format(
            name=self.name,
            folder=self.folder,
            shared=shared,
            address=self.address,
            checkout=Path(__file__).parents[2],
            python=sys.prefix,
        )
        space = ["unshare", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc", "--mount", "--uts", "--ipc"]
        log = (self.folder / "boot.log").open("ab")
        with log:
            self.boot = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *space, "bash", "-c", script], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 30
        while self.ssh("true").returncode:
            if self.boot.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not boot: {(self.folder / 'boot.log').read_text()}")
            time.sleep(0.2)

    def power_off(self) -> None:
        """End all its processes at once."""
        if self.boot is not None:
            self.boot.kill()
            self.boot.wait()
            self.boot = None


@contextmanager
def several_hosts(names: Sequence[str], folder: Path, prepare: str = "") -> Iterator[dict[str, Host]]:
    """Hosts of these names, the first at .10; ``prepare`` is a shell command that is run on each. Removed at the end."""
    with _alone():
        yield from _hosts(names, folder, prepare)


@contextmanager
def _alone() -> Iterator[None]:
    """Names and addresses are the same for every test on this machine: one at a time."""
    with Path(f"/tmp/{NAME}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _hosts(names: Sequence[str], folder: Path, prepare: str) -> Iterator[dict[str, Host]]:
    clean()
    shared = folder / "shared"
    shared.mkdir(parents=True)
    key = folder / "key"
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    try:
        _run("ip", "link", "add", BRIDGE, "type", "bridge")
        _run("ip", "address", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        _run("ip", "link", "set", BRIDGE, "up")
        hosts = {
            name: _connect(Host(f"{NAME}{number}", f"{NETWORK}.{10 + number}", folder / name, key), name)
            for number, name in enumerate(names)
        }
        for host in hosts.values():
            host.start(shared)
            done = host.ssh(prepare) if prepare else None
            if done is not None and done.returncode:
                raise RuntimeError(f"{host.name}: {done.stderr}")
        yield hosts
    finally:
        clean()


def _connect(host: Host, role: str) -> Host:
    """Its folder, network namespace and cable."""
    for part in ("home/.ssh", "tmp/ray"):
        (host.folder / part).mkdir(parents=True)
    (host.folder / "tmp").chmod(0o1777)
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(host.home / ".ssh/host_key"))
    shutil.copy(f"{host.key}.pub", host.home / ".ssh/authorized_keys")
    users = Path("/etc/passwd").read_text().splitlines()
    root = "root:x:0:0:root:/mnt/home:/bin/bash"
    (host.folder / "passwd").write_text("\n".join([root, *(u for u in users if not u.startswith("root:"))]) + "\n")
    # As Debian installs it: the own name is a loopback address, which no other machine can reach.
    (host.folder / "hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {host.name} {role}\n")
    inside, outside = f"{host.name}e", f"{host.name}v"
    _run("ip", "netns", "add", host.name)
    _run("ip", "link", "add", outside, "type", "veth", "peer", "name", inside, "netns", host.name)
    _run("ip", "link", "set", outside, "master", BRIDGE)
    _run("ip", "link", "set", outside, "up")
    for command in (["address", "add", f"{host.address}/24", "dev", inside], ["link", "set", inside, "up"]):
        _run("ip", "-n", host.name, *command)
    _run("ip", "-n", host.name, "route", "add", "default", "via", f"{NETWORK}.1")
    return host


def clean() -> list[str]:
    """Remove every namespace with the test's name, the processes in it, and the bridge; what was removed."""
    removed = []
    for line in _run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        if not name.startswith(NAME):
            continue
        for pid in _run("ip", "netns", "pids", name).split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        _run("ip", "netns", "delete", name)
        removed.append(name)
    for link in sorted(Path("/sys/class/net").glob(f"{NAME}*")):
        subprocess.run(["ip", "link", "delete", link.name], capture_output=True)  # a cable's other end went before
        removed.append(link.name)
    return removed


if __name__ == "__main__":
    if sys.argv[1:] != ["--clean"]:
        sys.exit(__doc__)
    print("removed:", ", ".join(clean()) or "nothing")
