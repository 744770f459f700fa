"""The run page on this machine: who may ask, and what they get. It reads the run; the one thing it writes is the file of labels.

The link holds a token that only its reader has. It is changed for a cookie at once, so that it stays in no address bar. A request
must name this server (a foreign name that resolves to this machine does not), and one that writes must come from the page itself.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import signal
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from bcpg_cluster.errors import BcpgError, DataError, UserError
from bcpg_cluster.records import SampleId
from bcpg_cluster.watch.view.as_json import to_json
from bcpg_cluster.watch.view.labels import HandLabel
from bcpg_cluster.watch.view.source import RunSource

_LOCAL = ("localhost", "127.0.0.1", "::1")
_MOST_BODY = 64 * 1024
_SHUTDOWN_S = 2.0  # for answers under way when it is ended
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Doorkeeper:
    """Who may ask.

    Attributes:
        host: what the server listens on; names other than this machine's own are refused.
        token: in the link.
        session: in the cookie.
    """

    host: str
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    session: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    cookie: str = field(
        default_factory=lambda: f"bcpg_view_{secrets.token_hex(4)}"
    )  # servers of one machine share cookies

    def link(self, port: int) -> str:
        """What a person opens."""
        host = socket.gethostname() if self._is_open_to_all else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/?token={self.token}"

    @property
    def _is_open_to_all(self) -> bool:
        return _is_address(self.host) and ipaddress.ip_address(self.host).is_unspecified

    def knows_name(self, header: str) -> bool:
        """Whether a Host header names this server. A page elsewhere can have its name resolve here, but cannot be an address."""
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:  # a bracket that is not closed
            return False
        if name in (*_LOCAL, self.host.lower()):
            return True
        return self._is_open_to_all and (_is_address(name) or name == socket.gethostname().lower())

    def has_token(self, request: web.Request) -> bool:
        """Whether the link's token came with the request."""
        return _same(request.query.get("token", ""), self.token)

    def has_session(self, request: web.Request) -> bool:
        """Whether the request comes from a browser that was let in."""
        return _same(request.cookies.get(self.cookie, ""), self.session)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server there."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same(given: str, secret: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "replace"), secret.encode())


def view_app(source: RunSource, page: str, policy: str, door: Doorkeeper) -> web.Application:
    """The server's routes.

    Args:
        page: the HTML document.
        policy: its content security policy.
    """
    scoring = ThreadPoolExecutor(1, "scoring")  # it takes long; the other documents have the loop's own threads

    async def end_scoring(app: web.Application) -> None:
        scoring.shutdown(wait=False, cancel_futures=True)

    async def document(request: web.Request) -> web.StreamResponse:
        return web.Response(text=page, content_type="text/html")

    async def overview(request: web.Request) -> web.StreamResponse:
        return _json(await asyncio.to_thread(lambda: to_json(source.overview())))

    async def shard(request: web.Request) -> web.StreamResponse:
        round_, number = _number(request, "round"), _number(request, "shard")
        return _json(await asyncio.to_thread(lambda: to_json(source.shard(round_, number))))

    async def sample(request: web.Request) -> web.StreamResponse:
        round_, number, prompt = _number(request, "round"), _number(request, "sample"), request.query.get("prompt", "")
        return _json(await asyncio.to_thread(lambda: to_json(source.sample(round_, prompt, number))))

    async def after(request: web.Request) -> web.StreamResponse:
        round_, number, prompt = _number(request, "round"), _number(request, "sample"), request.query.get("prompt", "")
        work = asyncio.get_running_loop().run_in_executor(scoring, source.after, round_, prompt, number)
        return _json(to_json(await work))

    async def labels(request: web.Request) -> web.StreamResponse:
        given = _label(await _body(request))
        file = await asyncio.to_thread(source.put_label, given)
        return _json(to_json({"path": str(file.path), "num_labels": file.num_labels}))

    app = web.Application(middlewares=[_guard(door, policy)], client_max_size=_MOST_BODY)
    app.on_cleanup.append(end_scoring)
    app.router.add_get("/", document)
    app.router.add_get("/data/overview.json", overview)
    app.router.add_get("/data/shard.json", shard)
    app.router.add_get("/data/sample.json", sample)
    app.router.add_get("/data/after.json", after)
    app.router.add_post("/data/labels", labels)
    return app


def _guard(door: Doorkeeper, policy: str) -> Any:
    """Lets in whom :class:`Doorkeeper` knows, turns errors into JSON, and puts the same headers on every answer."""
    headers = {
        "Content-Security-Policy": f"{policy}; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Cache-Control": "no-store",
    }

    @web.middleware
    async def guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
        response = await _answer(request, handler, door)
        response.headers.update(headers)
        return response

    return guard


async def _answer(request: web.Request, handler: _Handler, door: Doorkeeper) -> web.StreamResponse:
    if not door.knows_name(request.host):
        return _problem(
            403, f"this server is not {request.host!r}", "a request names the server it means", "open the printed link"
        )
    if request.method == "GET" and request.path == "/" and "token" in request.query and door.has_token(request):
        response = web.Response(status=303, headers={"Location": "/"})
        response.set_cookie(door.cookie, door.session, httponly=True, samesite="Strict", path="/")
        return response
    if not door.has_session(request):
        if request.path == "/" and request.headers.get("Sec-Fetch-Site") == "cross-site":
            # The link was followed from another site, so the browser keeps the strict cookie back until this site itself asks.
            return web.Response(text="Opening the run ...", headers={"Refresh": "0; url=/"})
        return _problem(
            403,
            "this browser has no access",
            "the page opens for the link with its token",
            "open the printed link again",
        )
    if request.method == "POST" and not _is_own(request):
        return _problem(403, "the request is not the page's own", "labels come from the page alone", "use the page")
    try:
        return await handler(request)
    except UserError as error:
        return _problem(404 if isinstance(error, DataError) else 400, error.problem, error.rule, error.remedy)
    except (BcpgError, OSError) as error:
        rule = "a page shows what the run's files hold"
        return _problem(500, str(error), rule, "the other shards can still be looked at; the notices name this one")
    except web.HTTPException as error:
        return _problem(error.status, error.reason, "the page knows what it asks for", "reload the page")


def _is_own(request: web.Request) -> bool:
    """Whether a request that writes was sent by the page: browsers let no other page set this header or this origin."""
    return request.headers.get("X-View") == "1" and request.headers.get("Origin") == f"http://{request.host}"


def _problem(status: int, problem: str, rule: str, remedy: str) -> web.Response:
    return _json(to_json({"problem": problem, "rule": rule, "remedy": remedy}), status)


def _json(content: bytes, status: int = 200) -> web.Response:
    return web.Response(body=content, status=status, content_type="application/json", charset="utf-8")


def _number(request: web.Request, name: str) -> int:
    text = request.query.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UserError(f"{name} is {text[:40]!r}", rule=f"{name} is a number from 0", remedy="reload the page")
    return int(text)


async def _body(request: web.Request) -> Any:
    try:
        return await request.json()
    except (ValueError, RecursionError):  # the latter of brackets nested by the thousand
        return None


def _label(body: Any) -> HandLabel:
    """The label in a request.

    Raises:
        UserError: it is none.
    """
    kinds = {"round": int, "prompt_id": str, "sample": int, "step": int}
    is_one = isinstance(body, dict) and all(type(body.get(key)) is kind for key, kind in kinds.items())
    is_one = is_one and "label" in body and (body["label"] is None or type(body["label"]) is int)
    note = body.get("note", "") if isinstance(body, dict) else None
    if not is_one or not isinstance(note, str):
        raise UserError(
            "the request holds no label",
            rule='a label is {"round", "prompt_id", "sample", "step", "label": 0, 1 or null, "note"}',
            remedy="reload the page",
        )
    return HandLabel(SampleId(body["round"], body["prompt_id"], body["sample"]), body["step"], body["label"], note)


async def serve(app: web.Application, listener: socket.socket) -> None:
    """Answer until the task is cancelled."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


async def serve_until_signal(app: web.Application, listener: socket.socket) -> None:
    """Until Ctrl-C or SIGTERM; handlers of its own, since a shell starts what runs in its background with Ctrl-C ignored."""
    serving = asyncio.ensure_future(serve(app, listener))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    with suppress(asyncio.CancelledError):
        await serving


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes a free one.

    Raises:
        UserError: the host is not this machine's, or the port is taken.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(
            f"cannot listen at {host}, port {port}: {error.strerror or error}",
            rule="the page is served at an address of this machine and a free port",
            remedy="leave --port out for a free one, or correct --host",
        ) from None
