"""Where other nodes reach this one. Groups of processes (trainers, pushes) meet at such addresses."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import MutableMapping

_ADDRESS = "BCPG_NODE_ADDRESS"
_GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
_LOOPBACK = {"NCCL_SOCKET_IFNAME": "lo", "VLLM_HOST_IP": "127.0.0.1"}  # who else would take the default route's address
_SIOCGIFADDR = 0x8915  # netdevice(7)


def announce(address: str, environ: MutableMapping[str, str] = os.environ) -> None:
    """Have this process use ``address``, which its cluster knows it by, and gloo the interface that carries it.

    Left to itself gloo takes the address that the host's own name resolves to. On many machines that is a loopback address
    (Debian writes 127.0.1.1 into /etc/hosts), which the peers on other nodes cannot reach. Where the address is loopback, all
    peers are on this machine, and NCCL and vLLM are kept to it too. What is set already stays.
    """
    address = environ.setdefault(_ADDRESS, address)
    interface = interface_of(address)
    if interface is not None:
        environ.setdefault(_GLOO_INTERFACE, interface)
    if is_loopback(address):
        for name, value in _LOOPBACK.items():
            environ.setdefault(name, value)


def own_address(environ: MutableMapping[str, str] = os.environ) -> str:
    """The announced address; loopback without one, since then all members are in this process."""
    return environ.get(_ADDRESS) or "127.0.0.1"


def is_loopback(address: str) -> bool:
    """Whether only processes of this machine reach the address. A name is not looked up."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def listen_at(host: str, port: int) -> socket.socket:
    """A listening socket for that address alone; PyTorch's rendezvous would listen on every interface of the machine.

    Raises:
        OSError: the port is taken, or no interface has the address.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError:
        listening.close()
        raise
    return listening


def interface_of(address: str) -> str | None:
    """The network interface with this IPv4 address; ``None`` when there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # an interface without an address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None
