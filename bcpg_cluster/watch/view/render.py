"""The page as one HTML document: template, style and script of ``page/``, with nothing loaded from anywhere.

The browser runs the one script and the one style whose digests the policy names, so text of a run that would be markup or a script
stays text.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from bcpg_cluster.watch.view.page import script, style, template


@dataclass(frozen=True, slots=True)
class PageParts:
    """What the page is made of: its jinja2 template, its style and its script.

    Raises:
        ValueError: style or script would end their own element.
    """

    template: str
    style: str
    script: str

    def __post_init__(self) -> None:
        for text, end in ((self.style, "</style"), (self.script, "</script"), (self.script, "<!--")):
            if end in text.lower():
                raise ValueError(f"the page's own text holds {end!r}")

    def policy(self, *, may_connect: bool) -> str:
        """The content security policy: nothing but this style, this script, and (with a server) this server."""
        connect = "'self'" if may_connect else "'none'"
        return (
            f"default-src 'none'; script-src '{_digest(self.script)}'; style-src '{_digest(self.style)}'; img-src data:; "
            f"connect-src {connect}; base-uri 'none'; form-action 'none'"
        )


def page_parts() -> PageParts:
    """The page as it is installed."""
    return PageParts(template(), style(), script())


def server_page(parts: PageParts, title: str) -> str:
    """The page that asks its server for data."""
    return _render(parts, title, {"mode": "server"}, None, parts.policy(may_connect=True))


def bundle_page(parts: PageParts, title: str, data: bytes, left_out: Sequence[str]) -> str:
    """The page that holds its data.

    Args:
        data: gzip of JSON.
        left_out: in sentences, what is not in it.
    """
    boot = {"mode": "bundle", "left_out": list(left_out)}
    return _render(parts, title, boot, base64.b64encode(data).decode("ascii"), parts.policy(may_connect=False))


def _render(parts: PageParts, title: str, boot: Mapping[str, object], data: str | None, policy: str) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(parts.template).render(
        title=title,
        style=Markup(parts.style),
        script=Markup(parts.script),
        boot=Markup(_in_script(boot)),
        data=data,
        csp=policy,
    )


def _in_script(value: object) -> str:
    """JSON that a script element can hold whatever its texts are."""
    text = json.dumps(value)  # ASCII alone
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
