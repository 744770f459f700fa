"""The shipped assets are what the committed scripts made, small enough to ship, and held out properly."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from bcpg_cluster.assets.chain.task import parse_question
from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.prompts.files import read_prompts
from bcpg_cluster.prompts.sets import check_disjoint

ROOT = Path(__file__).resolve().parents[3]
ASSETS = ROOT / "bcpg_cluster" / "assets"


def test_record_matches_scripts_and_files() -> None:
    spec = importlib.util.spec_from_file_location("make_assets", ROOT / "scripts" / "make_assets.py")
    assert spec is not None and spec.loader is not None
    make_assets = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_assets)
    assert json.loads((ASSETS / "made_by.json").read_text()) == make_assets.record()


def test_models_are_small() -> None:
    size = sum(
        p.stat().st_size
        for task in ("sums", "chain")
        for name in ("policy", "judge", "prm")
        for p in (ASSETS / task / name).rglob("*")
        if p.is_file()
    )
    assert 0 < size <= 12 * 2**20


def test_prompts_are_right_and_held_out() -> None:
    train = read_prompts(resolve_asset("embedded:chain/prompts/train.jsonl"))
    test = read_prompts(resolve_asset("embedded:chain/prompts/test.jsonl"))
    check_disjoint(train, test)
    assert len(test) >= 400
    assert all(parse_question(prompt.question).answer == prompt.answer for prompt in [*train, *test])
