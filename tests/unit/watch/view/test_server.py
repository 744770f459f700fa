"""watch.view.server: who is let in, what they get, and that only the page itself can write."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import CookieJar
from aiohttp.test_utils import TestClient, TestServer

from bcpg_cluster.errors import UserError
from bcpg_cluster.watch.view.render import PageParts, server_page
from bcpg_cluster.watch.view.server import Doorkeeper, is_loopback, listen, view_app
from bcpg_cluster.watch.view.source import RunSource

Visit = Callable[[TestClient[Any, Any], Doorkeeper], Awaitable[None]]


@pytest.fixture
def visit(
    finished_run: Any, open_source: Callable[..., RunSource], parts: PageParts, tmp_path: Path
) -> Callable[[Visit], None]:
    """``visit(steps)``: run them against a server of a finished run; labels go to ``tmp_path``."""

    def run(steps: Visit, host: str = "127.0.0.1") -> None:
        async def whole() -> None:
            door = Doorkeeper(host)
            source = open_source(finished_run.directory, labels=tmp_path / "labels.jsonl")
            app = view_app(source, server_page(parts, "run"), parts.policy(may_connect=True), door)
            jar = CookieJar(unsafe=True)  # cookies of an address, as browsers keep them
            async with TestClient(TestServer(app), cookie_jar=jar) as client:
                await steps(client, door)

        asyncio.run(whole())

    return run


async def enter(client: TestClient[Any, Any], door: Doorkeeper) -> None:
    response = await client.get("/", params={"token": door.token})
    assert response.status == 200
    assert "token" not in str(response.url)


def test_the_link_lets_in_and_its_token_leaves_the_address(visit: Any):
    async def steps(client: TestClient[Any, Any], door: Doorkeeper) -> None:
        response = await client.get("/", params={"token": door.token}, allow_redirects=False)
        assert (response.status, response.headers["Location"]) == (303, "/")
        cookie = response.headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert door.token not in cookie
        response = await client.get("/")
        assert response.status == 200
        assert '"mode": "server"' in await response.text()

    visit(steps)


@pytest.mark.parametrize(
    "path", ["/", "/?token=wrong", "/data/overview.json", "/data/shard.json?round=1&shard=0", "/x"]
)
def test_without_the_token_nothing_is_shown(visit: Any, path: str):
    async def steps(client: TestClient[Any, Any], door: Doorkeeper) -> None:
        response = await client.get(path)
        assert response.status == 403
        assert set(await response.json()) == {"problem", "rule", "remedy"}

    visit(steps)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "["])
def test_a_foreign_name_is_refused_even_with_the_cookie(visit: Any, host: str):
    async def steps(client: TestClient[Any, Any], door: Doorkeeper) -> None:
        await enter(client, door)
        response = await client.get("/data/overview.json", headers={"Host": host})
        assert response.status == 403
        response = await client.get("/", params={"token": door.token}, headers={"Host": host}, allow_redirects=False)
        assert response.status == 403

    visit(steps)


def test_names_of_this_server():
    local = Doorkeeper("127.0.0.1")
    assert [local.knows_name(name) for name in ("127.0.0.1:8000", "localhost:1", "[::1]:8", "10.0.0.1:1", "a.b")] == [
        True,
        True,
        True,
        False,
        False,
    ]
    everywhere = Doorkeeper("0.0.0.0")
    assert everywhere.knows_name("10.0.0.1:8000")  # an address is no name that could be made to lead here
    assert not everywhere.knows_name("evil.example:8000")
    assert Doorkeeper("node7.cluster").knows_name("node7.cluster:80")


def test_every_answer_carries_the_policy(visit: Any):
    async def steps(client: TestClient[Any, Any], door: Doorkeeper) -> None:
        await enter(client, door)
        for path in ("/", "/data/overview.json", "/nothing"):
            headers = (await client.get(path)).headers
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Cache-Control"] == "no-store"

    visit(steps)


def test_documents_and_errors_are_json(visit: Any, finished_run: Any):
    async def steps(client: TestClient[Any, Any], door: Doorkeeper) -> None:
        await enter(client, door)
        overview = await (await client.get("/data/overview.json")).json()
        assert overview["schema"] == 1
        assert overview["files"]["labels"].endswith("labels.jsonl")
        shard = await (await client.get("/data/shard.json", params={"round": 1, "shard": 2})).json()
        line = shard["samples"][0]
        query = {"round": 1, "prompt": line["prompt_id"], "sample": line["sample"]}
        sample = await (await client.get("/data/sample.json", params=query)).json()
        assert (sample["prompt_id"], sample["num_tokens"]) == (line["prompt_id"], line["num_tokens"])
        for path, status in (
            ("/data/shard.json?round=1&shard=99", 404),
            ("/data/shard.json?round=one&shard=0", 400),
            ("/data/shard.json?round=1", 400),
            ("/data/sample.json?round=1&prompt=..%2F..&sample=0", 404),
            ("/data/after.json?round=1&prompt=p&sample=0", 404),  # fakes have no weights
            ("/data/../manifest.jsonl", 404),
            ("/manifest.jsonl", 404),
        ):
            response = await client.get(path)
            assert response.status == status, path
            assert set(await response.json()) == {"problem", "rule", "remedy"}

    visit(steps)


def test_scores_under_way_hold_up_no_other_document(visit: Any, monkeypatch: pytest.MonkeyPatch):
    begun, may_end = asyncio.Event(), threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    def after(source: RunSource, round_: int, prompt_id: str, sample: int) -> Any:
        loops[0].call_soon_threadsafe(begun.set)
        may_end.wait()
        raise UserError("no weights", rule="", remedy="")

    monkeypatch.setattr(RunSource, "after", after)

    async def steps(client: TestClient[Any, Any], door: Doorkeeper) -> None:
        await enter(client, door)
        loops.append(asyncio.get_running_loop())
        query = {"round": 1, "prompt": "p", "sample": 0}
        scores = [asyncio.ensure_future(client.get("/data/after.json", params=query)) for _ in range(64)]
        try:
            await begun.wait()
            for _ in range(3):
                response = await asyncio.wait_for(client.get("/data/shard.json?round=1&shard=0"), 60)
                assert response.status == 200
        finally:
            may_end.set()
        assert {(await score).status for score in scores} == {400}

    visit(steps)


def label(**changes: Any) -> dict[str, Any]:
    return {"round": 1, "prompt_id": "", "sample": 0, "step": 0, "label": 1, "note": "</script>", **changes}


async def wrong_sample(client: TestClient[Any, Any]) -> dict[str, Any]:
    shard = await (await client.get("/data/shard.json", params={"round": 1, "shard": 0})).json()
    line = next(line for line in shard["samples"] if line["strip"])
    return {"prompt_id": line["prompt_id"], "sample": line["sample"]}


def test_a_label_goes_to_the_file_and_comes_back(visit: Any, tmp_path: Path):
    async def steps(client: TestClient[Any, Any], door: Doorkeeper) -> None:
        await enter(client, door)
        sample = await wrong_sample(client)
        origin = f"http://{client.host}:{client.port}"
        own = {"X-View": "1", "Origin": origin}
        for given in (0, 1):
            response = await client.post("/data/labels", json=label(**sample, label=given), headers=own)
            assert response.status == 200
        assert await response.json() == {"path": str(tmp_path / "labels.jsonl"), "num_labels": 1}
        query = {"round": 1, "prompt": sample["prompt_id"], "sample": sample["sample"]}
        found = await (await client.get("/data/sample.json", params=query)).json()
        assert found["steps"][0]["hand"] == 1
        for changes in ({"step": 999}, {"label": 2}, {"prompt_id": "none"}):
            response = await client.post("/data/labels", json=label(**sample | changes), headers=own)
            assert response.status == 404
        for body in ({}, label(**sample, step="0"), label(**sample, label=True), label(**sample, note=3), []):
            assert (await client.post("/data/labels", json=body, headers=own)).status == 400
        assert (await client.post("/data/labels", data=b"{", headers=own)).status == 400
        nested = b"[" * 60_000  # deeper than Python's stack
        assert (await client.post("/data/labels", data=nested, headers=own)).status == 400
        assert (await client.post("/data/labels", data=b"x" * 70_000, headers=own)).status == 413

    visit(steps)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-View": "1"},
        {"Origin": "http://{here}"},
        {"X-View": "1", "Origin": "http://evil.example"},
        {"X-View": "1", "Origin": "null"},
        {"X-View": "1", "Origin": "https://{here}"},
        {"X-View": "1", "Origin": "http://127.0.0.1:1"},
    ],
)
def test_another_page_cannot_write(visit: Any, tmp_path: Path, headers: dict[str, str]):
    async def steps(client: TestClient[Any, Any], door: Doorkeeper) -> None:
        await enter(client, door)
        sample = await wrong_sample(client)
        sent = {name: value.format(here=f"{client.host}:{client.port}") for name, value in headers.items()}
        assert (await client.post("/data/labels", json=label(**sample), headers=sent)).status == 403
        assert not (tmp_path / "labels.jsonl").exists()

    visit(steps)


def test_other_methods_are_refused_in_words(visit: Any):
    async def steps(client: TestClient[Any, Any], door: Doorkeeper) -> None:
        await enter(client, door)
        for method in ("PUT", "DELETE", "OPTIONS"):
            response = await client.request(method, "/data/labels")
            assert response.status == 405
            assert (await response.json())["problem"]

    visit(steps)


def test_links_and_loopback():
    door = Doorkeeper("127.0.0.1")
    assert door.link(81) == f"http://127.0.0.1:81/?token={door.token}"
    assert Doorkeeper("::1").link(81).startswith("http://[::1]:81/?token=")
    assert len(door.token) >= 32
    assert door.token != Doorkeeper("127.0.0.1").token
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.1.1.1")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_a_port_that_is_taken_is_said():
    with listen("127.0.0.1", 0) as first, pytest.raises(UserError, match=r"cannot listen at 127\.0\.0\.1, port"):
        listen("127.0.0.1", first.getsockname()[1])
    with pytest.raises(UserError, match=r"cannot listen at no\.such\.host\.invalid"):
        listen("no.such.host.invalid", 0)
