"""node_address.py: the announced address wins, and gloo is told its interface."""

from __future__ import annotations

from bcpg_cluster.cluster.node_address import announce, interface_of, own_address


def test_an_interface_is_found_by_its_address():
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.77") is None


def test_the_announced_address_wins_over_the_route():
    environ: dict[str, str] = {}
    announce("127.0.0.1", environ)
    assert own_address(environ) == "127.0.0.1"
    assert environ["GLOO_SOCKET_IFNAME"] == "lo"


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
