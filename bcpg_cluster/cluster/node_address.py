"""Where other nodes reach this one. Groups of processes (trainers, pushes) meet at such addresses."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import MutableMapping

_ADDRESS = "BCPG_NODE_ADDRESS"
_GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
_SIOCGIFADDR = 0x8915  # netdevice(7)


def announce(address: str, environ: MutableMapping[str, str] = os.environ) -> None:
    """Have this process use ``address``, which its cluster knows it by, and gloo the interface that carries it.

    Left to itself gloo takes the address that the host's own name resolves to. On many machines that is a loopback address
    (Debian writes 127.0.1.1 into /etc/hosts), which the peers on other nodes cannot reach. What is set already stays.
    """
    environ.setdefault(_ADDRESS, address)
    interface = interface_of(address)
    if interface is not None:
        environ.setdefault(_GLOO_INTERFACE, interface)


def own_address(environ: MutableMapping[str, str] = os.environ) -> str:
    """The announced address; without one that of the default route; loopback where there is no network."""
    if environ.get(_ADDRESS):
        return environ[_ADDRESS]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET: nothing is sent, the kernel only picks a route
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


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
