"""stages/verify/code/fences.py: which block of an answer is its program."""

from __future__ import annotations

import pytest

from bcpg_cluster.stages.verify.code.fences import Block, defines, fenced_blocks, find_code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\n1\n```\nor\n```python\n2\n```", "2\n"),
        ("```python\n1\n```\nprints\n```text\n2\n```", "1\n"),
        ("```\n1\n```", "1\n"),
        ("```python\n```\n", None),
        ("```python\n1\n", None),
        ("1", None),
        ("~~~py\n1\n~~~", "1\n"),
        ("```python\r\nx = 1\r\nprint(x)\r\n```\r\n", "x = 1\nprint(x)\n"),
        ("3. So:\n\n   ```python\n   if 1:\n       print(2)\n   ```", "if 1:\n    print(2)\n"),
        ("        ```python\n        1\n\n        2\n        ```", "1\n\n2\n"),
        ("\t```python\n\t1\n\t```", "1\n"),
        ("   ```python\n1\n   ```", "1\n"),  # lines that are not indented as their fence is
        ("```Python3\n1\n```\n```js\n2\n```", "1\n"),
        ("```{.python .numberLines}\n1\n```\n```\n2\n```", "1\n"),
        ('```python title="main.py"\n1\n```\n```bash\n2\n```', "1\n"),
        ("````python\ntext = '''\n```\n'''\n````", "text = '''\n```\n'''\n"),
        ("````md\n```python\n1\n```\n\nwait\n````\nAfter.", "1\n"),
        ("```pyramid\n1\n```\n```python\n2\n```\n```pyramid\n3\n```", "2\n"),
        ("Use ```x``` or ```y```.\n```python\n1\n```", "1\n"),
    ],
)
def test_which_block_is_the_program(text: str, code: str | None):
    assert find_code(text) == code


@pytest.mark.parametrize(
    ("blocks", "chosen"),
    [
        (["def add(a, b):\n    return a + b", "print(add(1, 2))"], 0),
        (
            ["def add(a, b):\n    return a", "def add(a, b):\n    return a + b"],
            1,
        ),  # corrected: the last definition counts
        (["class Solution:\n    def add(self, a, b):\n        return a + b", "Solution().add(1, 2)"], 0),
        (["add = lambda a, b: a + b", "add(1, 2)"], 0),
        (["from operator import add", "add(1, 2)"], 0),
        (["async def add(a, b): ...", "import asyncio"], 0),
        (["if True:\n    def add(a, b): return 1\nelse:\n    add = None", "add(1, 2)"], 0),
        (["def add(a, b) return", "add(1, 2)"], 0),  # no Python, but clearly meant
        (["def plus(a, b): ...", "plus(1, 2)"], 1),  # nobody defines it: the last
        (["class Other:\n    def add(self): ...", "x = 1"], 1),
    ],
)
def test_the_block_that_defines_what_is_tested(blocks: list[str], chosen: int):
    text = "\n\n".join(f"```python\n{block}\n```" for block in blocks)
    assert find_code(text, ["add"]) == blocks[chosen] + "\n"


def test_blocks_of_other_languages_do_not_count_beside_python():
    text = "```python\nx = 1\n```\n```\ndef add(a, b): ...\n```"
    assert find_code(text, ["add"]) == "x = 1\n"
    assert list(fenced_blocks(text)) == [Block("python", "x = 1\n"), Block("", "def add(a, b): ...\n")]


def test_a_program_nobody_can_parse_is_no_error():
    assert not defines("(" * 100_000, "add")
    assert not defines("\0", "add")
