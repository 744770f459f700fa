"""A run as one page without a server: everything it shows is inside, gzipped, and no larger than people can mail.

5 MB for every 1,000 samples is the most, and 60 MB in all. What does not fit is left out in this order, and the page says so: the
judges' raw answers, the columns of tokens, and then samples, those first that show least (not kept, not mined, not disputed).
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bcpg_cluster.errors import DataError, StoreError
from bcpg_cluster.watch.view.as_json import to_json
from bcpg_cluster.watch.view.overview.records import Overview, ShardLine
from bcpg_cluster.watch.view.overview.without_paths import without_paths
from bcpg_cluster.watch.view.records import SampleSummary, ShardSummary
from bcpg_cluster.watch.view.render import PageParts, bundle_page
from bcpg_cluster.watch.view.sample_records import SampleView, StepView, VerdictView
from bcpg_cluster.watch.view.source import RunSource

MOST_BYTES = 5_000_000
"""Of a page, for every 1,000 samples or part of them."""
MOST_IN_ALL = 60_000_000
"""Of a page, however many samples there are: browsers take no more in one file without a long wait."""
_WORDS_BYTES = 1000  # of the sentences about what is left out
_NO_RAW = "The judges' raw answers are left out"
_NO_TOKENS = "The columns of tokens (probability, weight, drift) are left out"

_Wanted = Mapping[tuple[int, int], Collection[tuple[str, int]]]
"""By round and shard, the samples to take by prompt id and number."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A page with what is in it."""

    page: str
    num_samples: int
    num_left_out: int
    left_out: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Detail:
    """How much is kept of a sample."""

    has_raw: bool = True
    has_tokens: bool = True


_DETAILS: tuple[tuple[_Detail, tuple[str, ...]], ...] = (
    (_Detail(), ()),
    (_Detail(has_raw=False), (_NO_RAW,)),
    (_Detail(has_raw=False, has_tokens=False), (_NO_RAW, _NO_TOKENS)),
)
"""From whole to least, each with what it leaves out."""
_HOPELESS = 1.3
"""Projected to be larger than its room by more than this, data is not made at all."""


class _TooLargeError(Exception):
    """The data outgrew its room; ``num_samples`` had fit."""

    def __init__(self, num_samples: int) -> None:
        super().__init__(num_samples)
        self.num_samples = num_samples


def bundle(source: RunSource, parts: PageParts, rounds: Sequence[int] = ()) -> Bundle:
    """The page of a run, or of some rounds' samples.

    Args:
        rounds: whose samples are in it; all by default. The overview has all rounds.

    Raises:
        DataError: a round without responses.
    """
    overview = source.overview()
    chosen = _chosen(overview, rounds)
    lists, overview = _lists(source, chosen, overview)
    overview = without_paths(overview)
    num_samples = sum(len(of_shard.samples) for of_shard in lists)
    most = min(MOST_BYTES * max(-(-num_samples // 1000), 1), MOST_IN_ALL)
    title = f"{overview.run.name}: bcpg-cluster"
    room = (most - len(bundle_page(parts, title, b"", ()).encode()) - _WORDS_BYTES) * 3 // 4  # base64 is a third longer
    data, words, num_kept = _fitting(source, overview, lists, room)
    under = f"to keep the page under {most // 1_000_000} MB."
    left_out = [f"{word} {under}" for word in words]
    if num_kept < num_samples:
        left_out.append(
            f"{num_samples - num_kept} of {num_samples} samples are left out in full, those that are kept, mined or disputed last, "
            f"{under} The list still has a line for each."
        )
    page = bundle_page(parts, title, data, left_out)
    return Bundle(page, num_samples, num_samples - num_kept, tuple(left_out))


def _fitting(
    source: RunSource, overview: Overview, lists: Sequence[ShardSummary], room: int
) -> tuple[bytes, tuple[str, ...], int]:
    """The data in as much detail as there is room for, what that leaves out, and how many samples are in it."""
    num_samples = sum(len(of_shard.samples) for of_shard in lists)
    fitted = num_samples
    for detail, words in _DETAILS:
        projected = _projected(source, overview, lists, detail)
        fitted = min(num_samples, num_samples * room // projected)
        if projected > room * _HOPELESS:
            continue  # making it all would only show that
        try:
            return _packed(source, overview, lists, detail, room), words, num_samples
        except _TooLargeError as error:
            fitted = error.num_samples
    detail, words = _DETAILS[-1]
    data, num_kept = _fewer(source, overview, lists, detail, room, fitted)
    return data, words, num_kept


def _chosen(overview: Overview, rounds: Sequence[int]) -> tuple[ShardLine, ...]:
    there = {line.round for line in overview.shards}
    unknown = sorted(set(rounds) - there)
    if unknown or not there:
        raise DataError(
            f"no responses of round {', '.join(map(str, unknown))}" if unknown else "the run has no responses yet",
            rule="a bundle holds samples of rounds that have some",
            remedy=f"rounds with responses: {', '.join(map(str, sorted(there))) or 'none yet'}",
        )
    return tuple(line for line in overview.shards if not rounds or line.round in rounds)


def _lists(source: RunSource, chosen: Sequence[ShardLine], overview: Overview) -> tuple[list[ShardSummary], Overview]:
    """The lists of all shards that can be read; the overview names the others."""
    lists, readable, notices = [], [], []
    for line in chosen:
        try:
            lists.append(source.shard(line.round, line.shard))
            readable.append(line)
        except StoreError as error:
            notices.append(f"Round {line.round}, shard {line.shard} is left out: {error}.")
    return lists, replace(overview, shards=tuple(readable), notices=(*overview.notices, *notices))


def _projected(source: RunSource, overview: Overview, lists: Sequence[ShardSummary], detail: _Detail) -> int:
    """Bytes of the data, by three of its shards."""
    some = [lists[place] for place in sorted({0, len(lists) // 2, len(lists) - 1})] if lists else []
    num_some, num_all = (sum(len(of_shard.samples) for of_shard in of) for of in (some, lists))
    without, of_some = (len(_packed(source, overview, of, detail, 1 << 62)) for of in ([], some))
    return without + (of_some - without) * num_all // max(num_some, 1)


def _packed(
    source: RunSource,
    overview: Overview,
    lists: Sequence[ShardSummary],
    detail: _Detail,
    room: int,
    wanted: _Wanted | None = None,
) -> bytes:
    """The data, gzipped as it is made, so that only a shard of it is in memory.

    Raises:
        _TooLargeError: it is larger than ``room``.
    """
    gzip = zlib.compressobj(6, zlib.DEFLATED, 31)
    pieces: list[bytes] = []
    size = 0

    def add(content: bytes) -> int:
        pieces.append(gzip.compress(content))
        return len(pieces[-1])

    size += add(b'{"overview":' + to_json(overview) + b',"shards":' + to_json(lists) + b',"samples":{')
    number = 0
    for views in _views(source, lists, wanted):
        for view in views:
            key = to_json(f"{view.round}/{view.prompt_id}/{view.sample}")
            size += add((b"," if number else b"") + key + b":" + to_json(_reduced(view, detail)))
            if size > room:
                raise _TooLargeError(number)
            number += 1
    pieces += [gzip.compress(b"}}"), gzip.flush()]
    data = b"".join(pieces)
    if len(data) > room:
        raise _TooLargeError(number)
    return data


def _views(source: RunSource, lists: Sequence[ShardSummary], wanted: _Wanted | None) -> Iterator[list[SampleView]]:
    for of_shard in lists:
        of_wanted = None if wanted is None else wanted.get((of_shard.round, of_shard.shard), ())
        if of_wanted is None or of_wanted:
            yield source.samples(of_shard.round, of_shard.shard, of_wanted)


def _fewer(
    source: RunSource, overview: Overview, lists: Sequence[ShardSummary], detail: _Detail, room: int, fitted: int
) -> tuple[bytes, int]:
    """As many samples as fit, those with most to see first. ``fitted``: so many did, in their own order."""
    ranked = sorted(
        ((of_shard.round, of_shard.shard, sample) for of_shard in lists for sample in of_shard.samples),
        key=lambda place: _rank(place[2]),
        reverse=True,
    )
    number = fitted
    while True:
        wanted: dict[tuple[int, int], set[tuple[str, int]]] = {}
        for round_, shard, sample in ranked[:number]:
            wanted.setdefault((round_, shard), set()).add((sample.prompt_id, sample.sample))
        try:
            return _packed(source, overview, lists, detail, room if number else 1 << 62, wanted), number
        except _TooLargeError as error:
            number = min(error.num_samples, number * 9 // 10)


def _rank(sample: SampleSummary) -> tuple[bool, bool, bool, float]:
    """What there is to see: a mined step that is wrong, a dispute, mined tokens, being trained on."""
    return (
        sample.num_spared_wrong > 0 or sample.num_disputed > 0,
        sample.num_mined > 0,
        sample.drop is None,
        sample.dispute,
    )


def _reduced(view: SampleView, detail: _Detail) -> SampleView:
    if not detail.has_raw:
        view = replace(view, steps=tuple(_without_raw(step) for step in view.steps))
    return view if detail.has_tokens else replace(view, tokens=None)


def _without_raw(step: StepView) -> StepView:
    verdicts: list[VerdictView] = [replace(verdict, raw=None) for verdict in step.verdicts]
    return replace(step, verdicts=tuple(verdicts))
