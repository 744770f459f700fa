"""Where things lie in a run directory. Pure paths; relative ones are what receipts and the manifest hold.

::

    runs/<name>/
      config.yaml            the configuration as resolved when the run was made
      manifest.jsonl         the truth: which shards, snapshots and pushes count
      manifest/              the same in an object store, in segments (``store.journal``)
      manifest.jsonl.damaged-1  one that was cut back, as it was
      run.lock               held by the process that works on the run: who it is, and when it was last heard of
      mark.txt               by which members on other machines see that they have the same directory
      live.json              what that process does now, and when it was last heard of
      control/               requests to it (`bcpg-cluster scale`) and its answers
      rounds/0001/<table>/00003-<attempt>.parquet
      rounds/0001/checkpoint/0001/step-000020/  a step checkpoint of the trainers' first try, gone when the round is trained;
                             checkpoint.json in it, written last, has a sha256 of every file, and the manifest has its own
      rounds/0001/decoded/   the rows that are trained on, as trainers read them; gone when the round is trained
      rounds/0001/report.json
      snapshots/v0001-<attempt>/
"""

from __future__ import annotations

import hashlib
import secrets

from bcpg_cluster.store.path import RunPath

MANIFEST = "manifest.jsonl"
SEGMENTS = "manifest"
CONFIG = "config.yaml"
LOCK = "run.lock"
LIVE = "live.json"
CONTROL = "control"


def new_attempt() -> str:
    """A fresh attempt id: files of different attempts never collide, so a late writer can overwrite nothing."""
    return secrets.token_hex(4)


def shard_path(round_: int, table: str, shard: int, attempt: str) -> str:
    """The file of one attempt at one shard."""
    return f"rounds/{round_:04d}/{table}/{shard:05d}-{attempt}.parquet"


def checkpoint_path(round_: int) -> str:
    """The trainer's step checkpoints of a round: a directory for every try, which takes what the one before left."""
    return f"rounds/{round_:04d}/checkpoint"


def decoded_path(round_: int) -> str:
    """What trainers make of a round's rows and references, to read single rows from: made again where it is missing."""
    return f"rounds/{round_:04d}/decoded"


def report_path(round_: int) -> str:
    """A round's report."""
    return f"rounds/{round_:04d}/report.json"


def snapshot_path(version: int, attempt: str) -> str:
    """A snapshot directory (a Hugging Face checkpoint with digests)."""
    return f"snapshots/v{version:04d}-{attempt}"


def ray_namespace(run_dir: RunPath) -> str:
    """Where a run's actors live on a cluster: readable, and different for every run directory."""
    place = hashlib.sha256(str(run_dir.absolute()).encode()).hexdigest()[:6]
    return f"bcpg-{run_dir.absolute().name}-{place}"
