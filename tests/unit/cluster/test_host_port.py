"""cluster/host_port.py: only addresses that mean what they say."""

from __future__ import annotations

import pytest

from bcpg_cluster.cluster.host_port import parse_host_port


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("127.0.0.1:6379", ("127.0.0.1", 6379)),
        ("head:65535", ("head", 65535)),
        ("[::1]:1", ("::1", 1)),
    ],
)
def test_addresses(text, parsed):
    assert parse_host_port(text) == parsed


@pytest.mark.parametrize(
    "text", ["nonsense", ":6379", "head:", "head:0", "head:65536", "127.0.0.1:99999", "head:-1", "head:6379/", "head:٣"]
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="port from 1 to 65535"):
        parse_host_port(text)
