"""stages/judge/llm/cache.py: what is a hit, what is a miss, and many writers at once."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.judge.llm.cache import CachedAnswer, VerdictCache, request_key

ASKED: dict[str, Any] = {
    "model": "m",
    "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
    "schema": "{}",
    "decoding": {"temperature": 0.0, "max_tokens": 10},
    "sample": 0,
}
KEY = request_key(**ASKED)
ANSWER = CachedAnswer("0 correct none \ud800 é", 12, None)


def the_file(root: Path) -> Path:
    (path,) = [path for path in root.rglob("*") if path.is_file()]
    return path


def test_an_answer_comes_back_in_another_run(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path / "deep" / "cache")
    assert cache.get(KEY) is None
    cache.put(KEY, ANSWER)
    other = VerdictCache(tmp_path / "deep" / "cache")
    assert other.get(KEY) == ANSWER
    cache.put(KEY, CachedAnswer("newer"))
    assert other.get(KEY) == CachedAnswer("newer")


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"messages": ASKED["messages"][1:]},
        {"messages": ASKED["messages"][::-1]},
        {"messages": [{"role": "system", "content": "su"}, {"role": "user", "content": ""}]},
        {"schema": None},
        {"decoding": {"temperature": 0.5, "max_tokens": 10}},
        {"decoding": {"temperature": 0.0}},
        {"sample": 1},
    ],
)
def test_any_change_is_another_key(change: dict[str, Any]) -> None:
    assert request_key(**ASKED | change) != KEY


def test_the_order_of_settings_is_no_change() -> None:
    assert request_key(**ASKED | {"decoding": {"max_tokens": 10, "temperature": 0.0}}) == KEY


@settings(deadline=None)
@given(st.data())
def test_a_torn_or_altered_entry_is_a_miss(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("cache")
    cache = VerdictCache(root)
    cache.put(KEY, ANSWER)
    path = the_file(root)
    whole = path.read_bytes()
    if data.draw(st.booleans(), label="torn"):
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        place = data.draw(st.integers(0, len(whole) - 1))
        damaged = whole[:place] + bytes([whole[place] ^ (1 << data.draw(st.integers(0, 7)))]) + whole[place + 1 :]
    path.write_bytes(damaged)
    # A flipped bit may leave the same JSON (white space); then it is the same answer, and never another one.
    assert cache.get(KEY) in (None, ANSWER)
    if not data.draw(st.booleans(), label="leave"):
        cache.put(KEY, ANSWER)
        assert cache.get(KEY) == ANSWER


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"null", b"[]", b"\xff\xfe", b'"x"', b"[" * 100_000, b'{"key": 1, "checksum": 2}']
)
def test_files_that_are_no_entries(content: bytes, tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path)
    cache.put(KEY, ANSWER)
    the_file(tmp_path).write_bytes(content)
    assert cache.get(KEY) is None


def test_an_entry_of_another_key_is_a_miss(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path)
    cache.put(KEY, ANSWER)
    other = KEY[:2] + "0" * 62
    the_file(tmp_path).rename(the_file(tmp_path).with_name(f"{other}.json"))
    assert cache.get(other) is None
    entry = json.loads(the_file(tmp_path).read_text())
    the_file(tmp_path).write_text(json.dumps(entry | {"key": other}))  # renamed with more care: the checksum knows
    assert cache.get(other) is None


def test_a_full_disk_costs_the_entry_only(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path)
    (tmp_path / "v1" / KEY[:2]).write_text("in the way")
    cache.put(KEY, ANSWER)
    assert cache.get(KEY) is None


def test_a_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="verdict cache"):
        VerdictCache(tmp_path / "file")


def test_many_threads(tmp_path: Path) -> None:
    keys = [request_key(**ASKED | {"sample": sample}) for sample in range(20)]

    def work(number: int) -> None:
        cache = VerdictCache(tmp_path)
        for sample, key in enumerate(keys):
            found = cache.get(key)
            assert found is None or found.text == f"answer {sample}"
            cache.put(key, CachedAnswer(f"answer {sample}", number))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    cache = VerdictCache(tmp_path)
    assert [getattr(cache.get(key), "text", None) for key in keys] == [f"answer {sample}" for sample in range(20)]
    assert not list(tmp_path.rglob(".*"))  # nothing temporary is left


def test_two_processes(tmp_path: Path) -> None:
    """A reader of a long entry that another process keeps replacing sees one whole version or the other."""
    writer = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from bcpg_cluster.stages.judge.llm.cache import CachedAnswer, VerdictCache
        cache = VerdictCache(Path(sys.argv[1]))
        for turn in range(300):
            cache.put(sys.argv[2], CachedAnswer("ab"[turn % 2] * 200_000))
        """
    )
    cache = VerdictCache(tmp_path)
    cache.put(KEY, CachedAnswer("a" * 200_000))
    process = subprocess.Popen([sys.executable, "-c", writer, str(tmp_path), KEY])
    try:
        while process.poll() is None:
            found = cache.get(KEY)
            assert found is not None and found.text in ("a" * 200_000, "b" * 200_000)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert cache.get(KEY) == CachedAnswer("b" * 200_000)
