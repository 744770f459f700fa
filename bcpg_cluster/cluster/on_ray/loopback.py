"""A Ray of this machine's own listens on loopback alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def on_loopback() -> Iterator[None]:
    """While ``ray.init`` starts a local Ray: its node's address is loopback, and so every server of it listens there.

    On Linux Ray replaces a loopback ``_node_ip_address`` by the address of the default route, and then its GCS, raylet, workers and
    agents listen on every interface. On macOS and Windows it stays on loopback, by this constant, which it reads when it is
    imported (the variable ``RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER``) and each time it needs an address.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
