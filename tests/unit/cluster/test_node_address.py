"""node_address.py: the announced address wins, gloo is told its interface, and loopback stays loopback."""

from __future__ import annotations

import os

import pytest

from bcpg_cluster.cluster.node_address import announce, interface_of, is_loopback, listen_at, own_address
from tests.listening import listening


def test_an_interface_is_found_by_its_address():
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.77") is None


def test_the_announced_address_wins_over_the_route():
    environ: dict[str, str] = {}
    announce("127.0.0.1", environ)
    assert own_address(environ) == "127.0.0.1"
    assert environ["GLOO_SOCKET_IFNAME"] == "lo"


def test_on_loopback_every_library_is_kept_there():
    environ: dict[str, str] = {}
    announce("127.0.0.1", environ)
    assert (environ["NCCL_SOCKET_IFNAME"], environ["VLLM_HOST_IP"]) == ("lo", "127.0.0.1")
    elsewhere: dict[str, str] = {}
    announce("192.0.2.77", elsewhere)
    assert elsewhere == {"BCPG_NODE_ADDRESS": "192.0.2.77"}


def test_without_an_announcement_all_members_are_in_this_process():
    assert own_address({}) == "127.0.0.1"


@pytest.mark.parametrize(
    ("address", "is_own"), [("127.0.0.1", True), ("::1", True), ("192.0.2.5", False), ("localhost", False)]
)
def test_which_addresses_are_loopback(address: str, is_own: bool):
    assert is_loopback(address) is is_own


def test_a_socket_listens_at_its_address_alone():
    before = listening(os.getpid())
    with listen_at("127.0.0.1", 0) as first, pytest.raises(OSError):
        new = listening(os.getpid()) - before
        assert {address for _, address in new} <= {"127.0.0.1"}
        listen_at("127.0.0.1", first.getsockname()[1])


def test_what_a_person_set_stays():
    environ = {"GLOO_SOCKET_IFNAME": "ib0", "BCPG_NODE_ADDRESS": "192.0.2.5"}
    announce("127.0.0.1", environ)
    assert environ == {"GLOO_SOCKET_IFNAME": "ib0", "BCPG_NODE_ADDRESS": "192.0.2.5"}
    assert own_address(environ) == "192.0.2.5"


def test_an_address_no_interface_has_is_kept_and_gloo_left_alone():
    environ: dict[str, str] = {}
    announce("192.0.2.77", environ)  # e.g. the outer address of a machine behind a translation of addresses
    assert own_address(environ) == "192.0.2.77"
    assert "GLOO_SOCKET_IFNAME" not in environ
