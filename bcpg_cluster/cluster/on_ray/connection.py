"""Before a driver joins a Ray cluster: is it there, does it take our token, does it run our version?

Ray itself takes 20 s to refuse a token and two minutes to miss a cluster that is not there, after which it ends the process.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from bcpg_cluster.cluster.host_port import parse_host_port
from bcpg_cluster.errors import UserError, page

_PATIENCE_S = 5.0


def check_address(address: str, reason: str) -> None:
    """Raises :class:`UserError` when nothing listens at ``host:port``, or it is not the address of a cluster's head."""
    try:
        place = None if "://" in address else parse_host_port(address)
    except ValueError:
        place = None
    if place is None:
        raise UserError(
            f"{address!r} ({reason}) is not a cluster's address",
            rule="the address is host:port of the head as `ray start --head` prints it (port 6379), `local`, or `auto`",
            remedy=f"from another machine use `ray job submit` or `ray exec` ({page('cluster.md')}), so that the command runs "
            "there",
        )
    try:
        with socket.create_connection(place, timeout=_PATIENCE_S):
            return
    except OSError as error:
        raise UserError(
            f"no Ray cluster answers at {address} ({reason}): {error}",
            rule="--address, RAY_ADDRESS or a Ray running on this machine must be reachable",
            remedy="see `ray up` and `ray status` on the head, unset RAY_ADDRESS, or give --address local",
        ) from None


def check_token(address: str) -> None:
    """Raises :class:`UserError` when the cluster refuses this process's token, or its having none."""
    import grpc
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc
    from ray.exceptions import AuthenticationError

    try:
        with init_grpc_channel(address) as channel:
            head = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)
            head.GetClusterId(gcs_service_pb2.GetClusterIdRequest(), timeout=_PATIENCE_S)
    except AuthenticationError:
        raise _token_error(address, "this process has none, though RAY_AUTH_MODE is token") from None
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            raise _token_error(address, "it refused this process's token, or this process sent none") from None
        # Whatever else it is, `ray.init` says it better.


def _token_error(address: str, why: str) -> UserError:
    return UserError(
        f"the Ray cluster at {address} requires its token: {why}",
        rule="all nodes and clients of a cluster share one token and have RAY_AUTH_MODE=token in their environment",
        remedy="copy the head's ~/.ray/auth_token to this machine and export RAY_AUTH_MODE=token",
    )


@contextmanager
def joining(address: str, reason: str) -> Iterator[None]:
    """Turns what ``ray.init`` raises for a cluster that cannot be joined into :class:`UserError`."""
    from ray.exceptions import RayError

    try:
        yield
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        words = " | ".join(line.strip() for line in str(error).splitlines() if line.strip())
        if "version mismatch" in words.lower():
            raise UserError(
                f"the Ray cluster at {address} runs another version: {words}",
                rule="the command and all nodes run the same Ray, and the same Python down to the patch release",
                remedy="run the command with the cluster's own environment (`ray exec`, `ray job submit`), or install its versions",
            ) from None
        raise UserError(
            f"the Ray cluster at {address} ({reason}) cannot be joined: {words}",
            rule="--address, RAY_ADDRESS or a Ray running on this machine must be a cluster that takes new drivers",
            remedy="see `ray status` on the head, unset RAY_ADDRESS, or give --address local",
        ) from None
