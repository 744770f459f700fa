"""Make everything the embedded tasks ship: policy, LLM judge, PRM, and the prompts.

    python scripts/make_assets.py [--task sums]

Runs each task's ``make_policy.py`` and ``make_judges.py`` (their docstrings give seeds, times and the kind of machine), then
writes ``made_by.json`` beside the assets: the digest of each script and of each file it made. A test compares them, so that
a script cannot change without its assets.

    python scripts/make_assets.py --only-record     # the assets were made just now by the scripts as they are
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ASSETS = ROOT / "bcpg_cluster" / "assets"
RECORD = "made_by.json"
TASKS = ("sums", "chain")
SCRIPTS = tuple(f"{task}/{name}.py" for task in TASKS for name in ("make_policy", "make_judges"))
MADE = tuple(f"{task}/{name}" for task in TASKS for name in ("policy", "judge", "prm", "prompts"))


def digest(path: Path) -> str:
    """sha256 of a file, hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def record() -> dict[str, dict[str, str]]:
    """The digests of the scripts and of everything they made, by path relative to their folders."""
    files = [path for folder in MADE for path in sorted((ASSETS / folder).rglob("*")) if path.is_file()]
    return {
        "scripts": {name: digest(ROOT / "scripts" / name) for name in SCRIPTS},
        "files": {str(path.relative_to(ASSETS)): digest(path) for path in files},
    }


def main() -> None:
    """Make the assets and their record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only-record", action="store_true", help="make nothing, only write the record")
    parser.add_argument("--task", choices=TASKS, default="sums", help="the task whose assets are made (default: sums)")
    arguments = parser.parse_args()
    if not arguments.only_record:
        folder = str(ASSETS / arguments.task)
        for script, option in (("make_policy", "--out"), ("make_judges", "--assets")):
            module = f"scripts.{arguments.task}.{script}"
            subprocess.run([sys.executable, "-m", module, option, folder], check=True, cwd=ROOT)
    (ASSETS / RECORD).write_text(json.dumps(record(), indent=1) + "\n")
    size = sum(path.stat().st_size for folder in MADE for path in (ASSETS / folder).rglob("*") if path.is_file())
    print(f"{size / 2**20:.1f} MiB in {ASSETS}")


if __name__ == "__main__":
    main()
