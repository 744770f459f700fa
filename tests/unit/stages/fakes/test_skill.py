"""skill.py: a fake's snapshot is as well guarded as a model's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bcpg_cluster.errors import StoreError
from bcpg_cluster.stages.fakes.skill import SNAPSHOT_FILE, skill_digests, verify_skill


def test_every_flipped_bit_of_a_snapshot_is_found(tmp_path: Path):
    file = tmp_path / SNAPSHOT_FILE
    file.write_text(json.dumps({"skill": 0.75}))
    verify_skill(str(tmp_path), skill_digests(0.75))
    whole = file.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            altered = bytearray(whole)
            altered[place] ^= 1 << bit
            file.write_bytes(altered)
            with pytest.raises(StoreError, match=SNAPSHOT_FILE):
                verify_skill(str(tmp_path), skill_digests(0.75))


def test_a_snapshot_that_is_gone_is_not_whole(tmp_path: Path):
    with pytest.raises(StoreError, match=SNAPSHOT_FILE):
        verify_skill(str(tmp_path), skill_digests(0.75))
