"""A run directory as the page's documents, read shard by shard and kept for a while. Nothing in it is ever written to."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import DataError, OtherSchemaError, RunDirectoryError, StoreError
from bcpg_cluster.records import Receipt, SampleId
from bcpg_cluster.stages.graph import REFERENCE
from bcpg_cluster.store.journal import journal_lines, journal_place
from bcpg_cluster.store.manifest import ManifestState, read_manifest
from bcpg_cluster.store.path import RunPath
from bcpg_cluster.store.shards import read_columns
from bcpg_cluster.watch.live_status import is_alive, read_live
from bcpg_cluster.watch.view.glance import Glance
from bcpg_cluster.watch.view.labels import HandLabel, LabelFile
from bcpg_cluster.watch.view.overview.overview import RunSeen, overview_of
from bcpg_cluster.watch.view.overview.records import Overview
from bcpg_cluster.watch.view.overview.timeline import read_timeline
from bcpg_cluster.watch.view.records import SampleSummary, ShardSummary
from bcpg_cluster.watch.view.sample import rounded, sample_view
from bcpg_cluster.watch.view.sample_records import AfterTraining, SampleView
from bcpg_cluster.watch.view.samples import summarise, weights_of
from bcpg_cluster.watch.view.shard_tables import (
    ShardTables,
    ids_of,
    lists_of,
    read_tables,
    reference_of,
    shard_receipts,
)

_KEPT_LISTS, _KEPT_TABLES = 64, 4  # shards
_STORE_AGE_S = 5.0
_ID_COLUMNS = ("round", "prompt_id", "sample")
_Kept = TypeVar("_Kept")
Score = Callable[[ManifestState, int, Sequence[int], Sequence[int]], Sequence[float]]
"""From the run's state, a version, a prompt's tokens and a response's: log-probs of the latter."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """A shard read in full, with its list and the trainer's log-probs."""

    tables: ShardTables
    lines: Mapping[tuple[str, int], SampleSummary]
    reference: Mapping[SampleId, np.ndarray]


class RunSource:
    """The documents of one run. Safe to be asked from several threads: they take turns.

    Args:
        load_config: reads the run's configuration anew.
        labels: where hand labels go; ``None`` keeps none.
        is_alone: in a page without a server, paths of this machine are left out.
        score: gives the log-probs of a response's tokens under a version's weights, in nats; ``None`` where that is not offered.
    """

    def __init__(
        self,
        run_dir: RunPath,
        load_config: Callable[[], Config],
        labels: LabelFile | None = None,
        *,
        is_alone: bool = False,
        score: Score | None = None,
    ) -> None:
        self.run_dir, self.labels = run_dir, labels
        self._load_config, self._is_alone = load_config, is_alone
        self._turn, self._score = threading.RLock(), score
        self._seen: tuple[object, RunSeen] | None = None
        self._lists: OrderedDict[object, ShardSummary] = OrderedDict()
        self._opened: OrderedDict[object, _Opened] = OrderedDict()
        self._refused: dict[str, str] = {}
        self._places: dict[tuple[int, int, str], frozenset[str]] = {}
        self._glance = Glance(self)

    # --- documents

    def overview(self) -> Overview:
        """The first page as the run stands now."""
        with self._turn:
            seen = self._now()
            found = overview_of(seen, labels=None if self.labels is None else str(self.labels.path))
            rounds = tuple(self._glance.with_distance(of, seen) for of in found.rounds)
            start_here = self._glance.start_here(rounds, seen)
            return replace(
                found,
                rounds=rounds,
                start_here=start_here,
                notices=(*found.notices, *dict.fromkeys(self._refused.values())),
            )

    def shard(self, round_: int, shard: int) -> ShardSummary:
        """The list of one shard's samples.

        Raises:
            DataError: there is no such shard.
            StoreError: its prompts or responses cannot be read.
        """
        with self._turn:
            receipts = self._receipts(round_, shard)
            key = _key(round_, shard, receipts)
            if key not in self._lists:
                opened = self._opened.get(key)
                tables = self._read(round_, shard, receipts) if opened is None else opened.tables
                listed = self._list(tables)
                if self._lacks_table(tables):
                    return listed
                _keep(self._lists, key, listed, _KEPT_LISTS)
            self._lists.move_to_end(key)
            return self._lists[key]

    def sample(self, round_: int, prompt_id: str, sample: int) -> SampleView:
        """One sample.

        Raises:
            DataError: there is no such sample.
            StoreError: its shard cannot be read.
        """
        with self._turn:
            shard = self._shard_of(round_, prompt_id)
            return self._view(self._open(round_, shard), SampleId(round_, prompt_id, sample))

    def samples(self, round_: int, shard: int, wanted: Collection[tuple[str, int]] | None = None) -> list[SampleView]:
        """The samples of a shard, or those ``wanted`` (prompt id and number). Raises as :meth:`shard`."""
        with self._turn:
            opened = self._open(round_, shard)
            ids = [line for line in opened.lines if wanted is None or line in wanted]
            return [self._view(opened, SampleId(round_, prompt, sample)) for prompt, sample in ids]

    def distance(self, round_: int, shard: int) -> tuple[float, float] | None:
        """How far the trainer's and the sampler's log-probs of a shard are apart. Raises as :meth:`shard`."""
        with self._turn:
            return _distance(self._open(round_, shard))

    def after(self, round_: int, prompt_id: str, sample: int) -> AfterTraining:
        """A sample's tokens under the weights that its round trained; worked out for this sample, which takes a while.

        The other documents do not wait for it. To be asked from one thread at a time: no two scores have room side by side.

        Raises:
            DataError: there is no such sample, or nothing to score it with.
            UserError: those weights are not there (any more), or too large.
        """
        id_ = SampleId(round_, prompt_id, sample)
        if self._score is None:
            raise DataError(
                "this run's weights cannot score a response here",
                rule="p after training takes a policy that vLLM serves, and a page with its server",
                remedy="look at what the run stores: p when sampled, and the drift of the trainer's reference",
            )
        with self._turn:
            receipt = self._receipts(round_, self._shard_of(round_, prompt_id))["rollouts"]
            table = read_columns(self.run_dir, receipt, [*_ID_COLUMNS, "prompt_token_ids", "token_ids"])
            state, ids = self.seen().state, ids_of(table)
        if id_ not in ids:
            raise _no_sample(id_)
        row = table.slice(ids.index(id_), 1).to_pylist()[0]
        logprobs = self._score(state, round_, row["prompt_token_ids"], row["token_ids"])
        p = np.exp(np.minimum(np.array(logprobs), 0.0))
        return AfterTraining(round_, prompt_id, sample, version=round_, p=rounded(p))

    def put_label(self, given: HandLabel) -> LabelFile:
        """Take a hand label in. Raises :class:`DataError` where there is no such step, or no file to keep it in."""
        if self.labels is None:
            raise DataError(
                "this page keeps no labels", rule="labels go to a file", remedy="start `view` with --labels FILE"
            )
        with self._turn:
            self.labels.put(given, self.sample(given.id.round, given.id.prompt_id, given.id.sample))
            return self.labels

    # --- the run as it stands

    def seen(self) -> RunSeen:
        """The manifest as it stands; it is read again only when it grew (in an object store, every few seconds)."""
        with self._turn:
            mark = self._mark()
            if self._seen is None or self._seen[0] != mark:
                self._seen = mark, self._read_run(None if self._seen is None else self._seen[1])
            return self._seen[1]

    def _read_run(self, before: RunSeen | None) -> RunSeen:
        lines = list(journal_lines(self.run_dir))
        state = read_manifest(self.run_dir, lines)
        is_same = before is not None and before.state.config == state.config
        config = before.config if before is not None and is_same else self._load_config()
        return RunSeen(
            self.run_dir.name if self._is_alone else str(self.run_dir),
            config,
            state,
            read_timeline(lines, config),
            read_live(self.run_dir),
            False,
            {key: dict(receipts.items()) for key, receipts in state.shards.items()},
        )

    def _now(self) -> RunSeen:
        """With what the run's process says at this moment."""
        live, is_running = read_live(self.run_dir), is_alive(self.run_dir, wait=lambda _: None)
        return replace(self.seen(), live=live, is_running=is_running)

    def check(self) -> None:
        """Before a page is made or served.

        Raises:
            RunDirectoryError: nothing was sampled yet, or the tables are of another version.
        """
        seen = self.seen()
        rollouts = [
            receipts[min(receipts)] for (_, table), receipts in seen.shards.items() if table == "rollouts" and receipts
        ]
        if not rollouts:
            raise RunDirectoryError(
                f"nothing was sampled yet in {self.run_dir}",
                rule="the page shows responses of the policy, from the first shard of round 1 on",
                remedy="wait for the first shard (`bcpg-cluster status` shows how far the run is), or name another --run-dir",
            )
        check_schema(self.run_dir, rollouts[0])

    def _mark(self) -> object:
        """Changes whenever the journal may have."""
        place = journal_place(self.run_dir)
        if not isinstance(place, Path):
            return int(time.monotonic() / _STORE_AGE_S)
        stat = place.stat()
        return stat.st_size, stat.st_mtime_ns

    # --- shards

    def _receipts(self, round_: int, shard: int) -> dict[str, Receipt]:
        seen = self.seen()
        receipts = shard_receipts(seen.shards, seen.config, round_, shard)
        if not {"prompts", "rollouts"} <= set(receipts):
            raise DataError(
                f"round {round_} has no shard {shard} of responses",
                rule="a shard is shown from the moment its responses are there",
                remedy="choose one that the overview lists",
            )
        return receipts

    def _read(self, round_: int, shard: int, receipts: Mapping[str, Receipt], *, is_full: bool = False) -> ShardTables:
        for name in ("", *receipts):
            self._refused.pop(_place(round_, shard, name), None)

        def note(table: str, error: StoreError) -> None:
            self._refused[_place(round_, shard, table)] = (
                f"Round {round_}, shard {shard}: {table} is left out: {error}."
            )

        try:
            return read_tables(
                self.run_dir, self.seen().config, round_, shard, receipts, is_full=is_full, on_refused=note
            )
        except StoreError as error:
            self._refused[_place(round_, shard)] = f"Round {round_}, shard {shard} cannot be shown: {error}."
            raise

    def _lacks_table(self, tables: ShardTables) -> bool:
        """Whether a table could not be read; another try may find it."""
        return any(_place(tables.round, tables.shard, name) in self._refused for name in tables.receipts)

    def _list(self, tables: ShardTables) -> ShardSummary:
        with _fitting(tables.round, tables.shard):
            return summarise(tables, self.seen().config)

    def _open(self, round_: int, shard: int) -> _Opened:
        receipts = self._receipts(round_, shard)
        key = _key(round_, shard, receipts)
        if key not in self._opened:
            tables = self._read(round_, shard, receipts, is_full=True)
            listed = self.shard(round_, shard) if key in self._lists else self._list(tables)
            lines = {(line.prompt_id, line.sample): line for line in listed.samples}
            opened = _Opened(tables, lines, self._reference(tables))
            if self._lacks_table(tables) or _place(round_, shard, REFERENCE) in self._refused:
                return opened
            _keep(self._opened, key, opened, _KEPT_TABLES)
        self._opened.move_to_end(key)
        return self._opened[key]

    def _view(self, opened: _Opened, id_: SampleId) -> SampleView:
        line = opened.lines.get((id_.prompt_id, id_.sample))
        if line is None:
            raise _no_sample(id_)
        steps = [step.text for step in (opened.tables.steps or {}).get(id_, ())]
        hand = {} if self.labels is None else self.labels.of(id_, steps)
        with _fitting(id_.round, opened.tables.shard):
            return sample_view(opened.tables, self.seen().config, line, reference=opened.reference.get(id_), hand=hand)

    def _reference(self, tables: ShardTables) -> dict[SampleId, np.ndarray]:
        """From the pieces of the reference pass, which are cut by shard and trainer rank: those at the shard's place first."""
        seen, round_ = self.seen(), tables.round
        pieces = sorted(seen.shards.get((round_, REFERENCE), {}).items())
        if not pieces:
            return {}
        shards = sorted(seen.shards.get((round_, "weighted"), {}))
        at = shards.index(tables.shard) / len(shards) if tables.shard in shards else 0.0
        nearest = sorted(pieces, key=lambda piece: abs((piece[0] + 0.5) / len(pieces) - at))
        wanted, place = weights_of(tables)[1], _place(round_, tables.shard, REFERENCE)
        self._refused.pop(place, None)
        try:
            return reference_of(self.run_dir, [receipt for _, receipt in nearest], wanted)
        except StoreError as error:
            self._refused[place] = f"Round {round_}: the drift of tokens is left out: {error}."
            return {}

    def _shard_of(self, round_: int, prompt_id: str) -> int:
        """Where a prompt's samples are. The prompts of each shard are read once."""
        pieces = self.seen().shards.get((round_, "prompts"), {})
        for shard, receipt in sorted(pieces.items()):
            key, place = (round_, shard, receipt.attempt), _place(round_, shard, "prompts")
            if key not in self._places:
                try:
                    names = read_columns(self.run_dir, receipt, ["prompt_id"])["prompt_id"].to_pylist()
                except StoreError as error:  # another try may find it
                    self._refused[place] = f"Round {round_}, shard {shard} cannot be shown: {error}."
                    continue
                self._refused.pop(place, None)
                self._places[key] = frozenset(names)
            if prompt_id in self._places[key]:
                return shard
        raise _no_sample(SampleId(round_, prompt_id, 0))


def check_schema(run_dir: RunPath, receipt: Receipt) -> None:
    """Raises :class:`RunDirectoryError` where a table is of another schema version. A file that is broken is no such thing."""
    try:
        read_columns(run_dir, receipt, ["round"])
    except OtherSchemaError as error:
        raise RunDirectoryError(
            str(error),
            rule="the page reads tables of this program's version only",
            remedy="use the version of bcpg-cluster that made the run",
        ) from None
    except StoreError:
        return


@contextmanager
def _fitting(round_: int, shard: int) -> Iterator[None]:
    """Rows that do not fit one another, though each file is as it was written, are an error of the store."""
    try:
        yield
    except (KeyError, IndexError, ValueError) as error:
        raise StoreError(f"the tables of round {round_}, shard {shard}, do not fit one another ({error!r})") from error


def _distance(opened: _Opened) -> tuple[float, float] | None:
    """Mean and largest distance of the trainer's and the sampler's log-probs in nats; ``None`` without a pair to compare."""
    table = opened.tables.rollouts
    pairs = [
        np.abs(opened.reference[id_] - logprobs)
        for id_, logprobs in zip(ids_of(table), lists_of(table["sampler_logprobs"]), strict=True)
        if id_ in opened.reference and len(opened.reference[id_]) == len(logprobs) > 0
    ]
    if not pairs:
        return None
    distances = np.concatenate(pairs)
    return float(distances.mean()), float(distances.max())


def _place(round_: int, shard: int, table: str = "") -> str:
    """What a notice is about; without a table, the shard as a whole."""
    return f"{round_}/{table}/{shard}"


def _key(round_: int, shard: int, receipts: Mapping[str, Receipt]) -> object:
    return round_, shard, tuple((name, receipt.attempt) for name, receipt in receipts.items())


def _keep(kept: OrderedDict[object, _Kept], key: object, value: _Kept, most: int) -> None:
    kept[key] = value
    while len(kept) > most:
        kept.popitem(last=False)


def _no_sample(id_: SampleId) -> DataError:
    return DataError(
        f"round {id_.round} has no sample {id_.sample} of prompt {id_.prompt_id!r}",
        rule="a sample is named by round, prompt and number",
        remedy="choose one from the list of samples",
    )
