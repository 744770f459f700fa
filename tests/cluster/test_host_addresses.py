"""node_address.py between hosts whose own names stand for loopback addresses, as Debian sets them up. Needs root."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster.hosts import SHARED, Host, missing_parts, several_hosts

_MISSING = missing_parts()
pytestmark = [pytest.mark.engine, pytest.mark.skipif(_MISSING is not None, reason=_MISSING or "")]

_RANK = """
import datetime, sys
sys.path.insert(0, {repository!r})
from bcpg_cluster.cluster.node_address import announce, own_address
announce({address!r})
assert own_address() == {address!r}
import torch.distributed as dist
import torch
dist.init_process_group(
    "gloo", init_method="tcp://{master}:29511", rank={rank}, world_size=2, timeout=datetime.timedelta(seconds=60)
)
sent = torch.ones(1) * ({rank} + 1)
dist.all_reduce(sent)
print("sum", sent.item())
dist.barrier()
dist.destroy_process_group()  # one that is left to the interpreter's end may abort it when the peer's threads are gone already
"""


def test_ranks_on_two_hosts_meet(tmp_path: Path) -> None:
    """Without the announced interface gloo tells its peer to connect to 127.0.1.1, and both time out."""
    with several_hosts(["first", "second"], tmp_path / "hosts") as hosts:

        def rank(number: int, host: Host) -> subprocess.CompletedProcess[str]:
            script = tmp_path / "hosts" / "shared" / f"rank{number}.py"
            master = hosts["first"].address
            repository = str(Path(__file__).parents[2])
            script.write_text(_RANK.format(repository=repository, address=host.address, master=master, rank=number))
            return host.ssh(f"{sys.executable} {SHARED}/rank{number}.py")

        with ThreadPoolExecutor(2) as threads:
            ended = list(threads.map(rank, range(2), hosts.values()))
    for done in ended:
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout == "sum 3.0\n"
