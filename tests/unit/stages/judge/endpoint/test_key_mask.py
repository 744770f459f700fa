"""A key is found in whatever spelling, and nothing else is."""

from __future__ import annotations

import base64
import html
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.stages.judge.endpoint.key_mask import KeyMask

KEY = "sk-Secret_01/23+45.67"
EVERY_ESCAPED = "".join(f"\\u{ord(character):04x}" for character in KEY)

SPELLINGS = {
    "plain": KEY,
    "in capitals": KEY.upper(),
    "in JSON": KEY.replace("/", "\\/"),
    "one escape": KEY.replace("S", "\\u0053"),
    "every character escaped": EVERY_ESCAPED,
    "JSON in JSON": json.dumps(EVERY_ESCAPED)[1:-1],
    "in a URL": quote(KEY, safe=""),
    "in a URL, every character": "".join(f"%{ord(character):02X}" for character in KEY),
    "in a URL in a URL": quote(quote(KEY, safe=""), safe=""),
    "in HTML": "".join(f"&#{ord(character)};" for character in KEY),
    "in HTML, hexadecimal": "".join(f"&#x{ord(character):X};" for character in KEY),
    "mixed": "".join(html.escape(c) if n % 2 else f"\\u{ord(c):04X}" for n, c in enumerate(KEY)),
}


@pytest.mark.parametrize("spelled", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_spellings(spelled: str) -> None:
    mask = KeyMask(KEY)
    assert mask.text(f"before{spelled}after") == "before***after"
    assert mask.body(f"before{spelled}after é".encode()) == "before***after é".encode()


@given(before=st.binary(max_size=9), after=st.binary(max_size=9))
def test_base64_wherever_it_begins(before: bytes, after: bytes) -> None:
    """What is left of the code has at most the letters that the key shares with its neighbours."""
    whole = base64.b64encode(before + KEY.encode() + after).decode()
    left = KeyMask(KEY).text(whole)
    assert "***" in left
    assert len(left) - 3 <= len(whole) - (len(KEY) * 8 // 6 - 1)


def test_url_safe_base64() -> None:
    key = "????>>>>????>>>>"
    assert KeyMask(key).text(base64.urlsafe_b64encode(key.encode()).decode()).startswith("***")


@given(st.text())
def test_other_text_stays(text: str) -> None:
    assert KeyMask("sk-0123456789abcdef").text(text) == text


@given(st.lists(st.sampled_from([*SPELLINGS.values(), '"', "\\", "é", "\n", " "]), max_size=6))
def test_json_stays_json(parts: list[str]) -> None:
    body = json.dumps({"content": "".join(parts), KEY: 1}).encode()
    masked = KeyMask(KEY).body(body)
    assert KEY.lower() not in json.dumps(json.loads(masked)).lower()


@pytest.mark.parametrize("key", ["x", "EMPTY", "correct"])
def test_a_key_that_guards_nothing_stays_in_answers(key: str) -> None:
    """A short word would be cut out of honest verdicts; messages lose it all the same."""
    mask = KeyMask(key)
    assert mask.text(f'{{"{key}": 1}}') == f'{{"{key}": 1}}'
    assert mask.message(f"wrong key {key}") == "wrong key ***"


def test_no_key() -> None:
    assert KeyMask(None).message("none") == "none"
