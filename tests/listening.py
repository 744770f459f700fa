"""At which addresses processes listen, as Linux tells it (proc(5))."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from pathlib import Path

_LISTEN = "0A"


def with_descendants(pid: int) -> set[int]:
    """The process and all that descend from it now."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, new = set[int](), [pid]
    while new:
        found.update(new)
        new = [child for parent in new for child in children.get(parent, ())]
    return found


def descendants(pid: int, words: str) -> list[int]:
    """Those that descend from a process and whose command line has the ``words``."""
    found = []
    for each in sorted(with_descendants(pid) - {pid}):
        with suppress(OSError):  # it has ended
            if words in Path(f"/proc/{each}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                found.append(each)
    return found


def listening(*pids: int) -> set[tuple[str, str]]:
    """Program and address of every TCP socket in which one of the processes listens."""
    sockets = _listening_sockets()
    found = set()
    for pid in pids:
        with suppress(OSError):  # it has ended
            program = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):
                    inode = re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink()))
                    if inode and inode[1] in sockets:
                        found.add((Path(program).name, sockets[inode[1]]))
    return found


def beyond_loopback(found: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those that other machines reach."""
    return sorted((program, address) for program, address in found if not _is_loopback(address))


def _is_loopback(text: str) -> bool:
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _listening_sockets() -> dict[str, str]:
    """Address by inode."""
    sockets = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN:
                    sockets[fields[9]] = _address(fields[1].partition(":")[0])
    return sockets


def _address(text: str) -> str:
    """The kernel writes 32-bit words in the machine's order, which is little-endian here."""
    words = [bytes.fromhex(text[start : start + 8])[::-1] for start in range(0, len(text), 8)]
    return str(ipaddress.ip_address(b"".join(words)))
