"""Many gold answers are asked once each, side by side, and never again when math-verify accepted them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import DataError, LostCheckError
from bcpg_cluster.run.preflight import golds
from bcpg_cluster.run.preflight.golds import unusable_golds
from bcpg_cluster.stages.verify.math_answer import MathVerifier

MakeConfig = Callable[..., Config]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BCPG_CLUSTER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The answers that were checked in this process."""
    heard: list[str] = []
    check = MathVerifier.check_gold

    def listen(self: MathVerifier, gold: str) -> None:
        heard.append(gold)
        check(self, gold)

    monkeypatch.setattr(MathVerifier, "check_gold", listen)
    return heard


def test_each_text_is_asked_once_and_what_was_accepted_never_again(make_config: MakeConfig, asked: list[str]):
    config = make_config(verify={"kind": "math"})
    given = ["12", "\\frac{1}{2}", "\\frac{", "\\frac{1}{2}", "-3.5", "x+1"]
    refused = unusable_golds(config, given)
    assert list(refused) == ["\\frac{"]
    assert "cannot be used" in refused["\\frac{"].problem
    assert asked == ["\\frac{1}{2}", "\\frac{", "x+1"]  # plain numbers are equal to themselves
    asked.clear()
    assert list(unusable_golds(config, given)) == ["\\frac{"]
    assert asked == ["\\frac{"]
    asked.clear()
    unusable_golds(make_config(verify={"kind": "math", "time_limit_s": 5.0}), ["x+1"])
    assert asked == ["x+1"]  # another limit accepts other answers


def test_side_by_side_they_find_the_same(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(golds, "_SIDE_BY_SIDE_FROM", 4)
    monkeypatch.setattr(golds, "_CHUNK", 2)
    monkeypatch.setattr(golds.os, "sched_getaffinity", lambda pid: {0, 1})
    refused = unusable_golds(make_config(verify={"kind": "math"}), ["x", "???", "y", "\\frac{", "z"])
    assert sorted(refused) == ["???", "\\frac{"]
    assert all(isinstance(error, DataError) and error.rule and error.remedy for error in refused.values())


def test_without_a_place_to_write_they_are_checked_all_the_same(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BCPG_CLUSTER_CACHE", str(tmp_path / "file" / "below"))
    assert list(unusable_golds(make_config(verify={"kind": "math"}), ["x+1", "\\frac{"])) == ["\\frac{"]


def test_other_verifiers_are_asked_directly(make_config: MakeConfig):
    config = make_config(verify={"kind": "exact", "numeric": True})
    assert list(unusable_golds(config, ["1", "one", "2"])) == ["one"]


def test_a_gold_without_a_reply_is_asked_once_more(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch):
    """x + 1 gets no reply the first time (a busy machine), x + 2 never."""
    heard: list[str] = []

    def check(self: MathVerifier, gold: str) -> None:
        heard.append(gold)
        if gold == "x+2" or (gold == "x+1" and heard.count(gold) == 1):
            raise LostCheckError("no reply within 5 s", rule="", remedy="")

    monkeypatch.setattr(MathVerifier, "check_gold", check)
    config = make_config(verify={"kind": "math"})
    assert list(unusable_golds(config, ["x+1", "x+2", "x+3"])) == ["x+2"]
    assert heard == ["x+1", "x+2", "x+3", "x+1", "x+2"]
    heard.clear()
    unusable_golds(config, ["x+1", "x+2", "x+3"])
    assert heard == ["x+2", "x+2"]  # the other two are known to be good


def test_what_was_accepted_is_kept_though_the_look_is_stopped(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(golds, "_SIDE_BY_SIDE_FROM", 4)
    monkeypatch.setattr(golds, "_CHUNK", 2)
    monkeypatch.setattr(golds.os, "sched_getaffinity", lambda pid: {0, 1})
    add, kept = golds._Accepted.add, list[int]()

    def stop_after_one(self: golds._Accepted, digests: Iterable[bytes]) -> None:
        if kept:
            raise KeyboardInterrupt
        kept.append(1)
        add(self, digests)

    config = make_config(verify={"kind": "math"})
    with monkeypatch.context() as stopped:
        stopped.setattr(golds._Accepted, "add", stop_after_one)
        with pytest.raises(KeyboardInterrupt):
            unusable_golds(config, ["x", "y", "z", "x+y", "x+z"])
    with golds._accepted_before(config) as accepted:
        assert [golds._digest(gold) in accepted for gold in ("x", "y", "z")] == [True, True, False]


def test_a_comparison_without_a_reply_is_lost_and_not_wrong(monkeypatch: pytest.MonkeyPatch):
    verifier = MathVerifier(5.0)
    monkeypatch.setattr(verifier._process, "ask", lambda request: {"status": "error", "message": "no reply within 5 s"})
    with pytest.raises(LostCheckError, match="no reply within 5 s"):
        verifier.check_gold("x+1")
    monkeypatch.setattr(verifier._process, "ask", lambda request: {"status": "bad_gold", "message": "no expression"})
    with pytest.raises(DataError) as caught:
        verifier.check_gold("x+1")
    assert not isinstance(caught.value, LostCheckError)
    verifier.close()


def test_a_list_of_accepted_golds_that_a_full_disk_cut_off_serves_what_comes_later(
    make_config: MakeConfig, asked: list[str]
):
    config = make_config(verify={"kind": "math"})
    unusable_golds(config, ["x+1", "x+2"])
    (kept,) = (golds.cache_directory() / "golds").iterdir()
    kept.write_bytes(kept.read_bytes()[:-5])  # x+2 is torn
    asked.clear()
    unusable_golds(config, ["x+1", "x+2", "x+3"])
    assert asked == ["x+2", "x+3"]
    asked.clear()
    unusable_golds(config, ["x+1", "x+2", "x+3"])
    assert asked == []
