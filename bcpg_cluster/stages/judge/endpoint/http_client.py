"""The HTTP client under the official ``openai`` client: a reply has a largest size, and the key leaves it before it is read."""

from __future__ import annotations

import logging
from typing import Any

from bcpg_cluster.stages.judge.endpoint.key_mask import KeyMask

MAX_REPLY_BYTES = 16 * 2**20
"""A hundred times the longest answer of a judge: what is longer is no answer, and may never end."""
_CODINGS = ("", "identity", "gzip", "deflate")
"""Content codings that grow a thousandfold at most; others are refused."""
_ABOUT_THE_BYTES = ("content-length", "content-encoding", "transfer-encoding")
_MOST_REDIRECTS = 5
_LOGGERS = (
    "httpx", "httpx2", "httpcore.http11", "httpcore.connection", "httpcore2.http11", "httpcore2.connection", "openai._base_client",
)  # fmt: skip


class UnreadableReplyError(ValueError):
    """A reply that is too long, or in an encoding nobody asked for."""


def make_http_client(mask: KeyMask) -> Any:
    """An ``openai.DefaultAsyncHttpxClient`` that reads replies whole, up to :data:`MAX_REPLY_BYTES`, and masks them."""
    import openai

    class MaskingClient(openai.DefaultAsyncHttpxClient):
        async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
            options.pop("follow_redirects", None)
            for _ in range(_MOST_REDIRECTS):
                response = await super().send(request, stream=True, follow_redirects=False, **options)
                try:
                    request = response.next_request
                    if request is None:
                        return await self._masked(response)
                finally:
                    await response.aclose()
            raise UnreadableReplyError(f"the endpoint sent the request elsewhere {_MOST_REDIRECTS} times")

        async def _masked(self, response: Any) -> Any:
            body = await _read_whole(response)
            headers = [(mask.message(name), mask.message(value)) for name, value in response.headers.multi_items()]
            return type(response)(
                response.status_code,
                headers=[pair for pair in headers if pair[0].lower() not in _ABOUT_THE_BYTES],
                content=mask.body(body),
                request=response.request,
            )

    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_MaskingFilter(mask))
    return MaskingClient(headers={"accept-encoding": "identity"})


async def _read_whole(response: Any) -> bytes:
    coding = response.headers.get("content-encoding", "").strip().lower()
    if coding not in _CODINGS:
        raise UnreadableReplyError(f"the reply comes in an encoding that was not asked for: {coding!r:.40}")
    pieces, num_bytes = [], 0
    async for piece in response.aiter_bytes():
        num_bytes += len(piece)
        _check_size(num_bytes)
        pieces.append(piece)
    body = b"".join(pieces)
    if b"\0" in body:  # UTF-16 or UTF-32, in which a key would not be found
        raise UnreadableReplyError("the reply is not UTF-8")
    return body


def _check_size(num_bytes: int) -> None:
    if num_bytes > MAX_REPLY_BYTES:
        raise UnreadableReplyError(f"the reply is longer than {MAX_REPLY_BYTES // 2**20} MiB, and was cut off there")


class _MaskingFilter(logging.Filter):
    """For those who have the client log what it sends and gets."""

    def __init__(self, mask: KeyMask) -> None:
        super().__init__()
        self._mask = mask

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        masked = self._mask.message(message)
        if masked != message:
            record.msg, record.args = masked, ()
        return True
