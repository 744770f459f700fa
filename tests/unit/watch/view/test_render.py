"""watch.view.render: the page's document, and what hostile text cannot do to it."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest

from bcpg_cluster.watch.view.render import PageParts, bundle_page, server_page

HOSTILE = '</script><script>alert(1)</script><!-- & "\u2028'


def boot_of(page: str) -> object:
    (text,) = re.findall(r'<script id="boot" type="application/json">(.*?)</script>', page, flags=re.S)
    assert "<" not in text
    return json.loads(text)


def test_a_served_page_asks_its_server(parts: PageParts):
    page = server_page(parts, f"a {HOSTILE}")
    assert boot_of(page) == {"mode": "server"}
    assert 'id="data"' not in page
    assert page.count("<script") == 2  # boot and the page's own: none came with the title
    assert "<script>let a = 1 && 2;</script>" in page


def test_a_bundle_holds_its_data(parts: PageParts):
    page = bundle_page(parts, "title", b"\x1f\x8b data", [HOSTILE])
    assert boot_of(page) == {"mode": "bundle", "left_out": [HOSTILE]}
    (data,) = re.findall(r'<script id="data" type="text/plain">(.*?)</script>', page)
    assert base64.b64decode(data) == b"\x1f\x8b data"


def test_the_policy_names_this_script_and_this_style(parts: PageParts):
    policy = parts.policy(may_connect=True)
    for text in (parts.script, parts.style):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "connect-src 'none'" in parts.policy(may_connect=False)
    assert "unsafe" not in policy
    assert "connect-src &#39;self&#39;" in server_page(parts, "t")


@pytest.mark.parametrize(("style", "script"), [("a</STYLE>", "b"), ("a", "b</script>"), ("a", "'<!--'")])
def test_a_page_that_would_end_its_own_script_is_refused(style: str, script: str):
    with pytest.raises(ValueError, match="the page's own text holds"):
        PageParts("", style, script)
