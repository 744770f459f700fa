"""What differs between two configs of one run, and whether that is allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bcpg_cluster.config.identity import marks_at
from bcpg_cluster.config.run import TRAINER_RANKS, Config
from bcpg_cluster.config.section import key_of
from bcpg_cluster.errors import UserError, page

_ABSENT = object()
_OF_VERDICTS_ALONE: Final = frozenset(
    {
        "role",
        "after",
        "rule",
        "prompt",
        "view",
        "show_gold",
        "window_steps",
        "window_tokens",
        "look_ahead",
        "votes",
        "says",
        "threshold",
    }
)
"""Keys of a judge that are not read where its model only says where steps begin."""


@dataclass(frozen=True, slots=True)
class Change:
    """A key with two values; a value is missing where the key exists on one side only."""

    path: tuple[str, ...]
    before: Any
    after: Any

    def __str__(self) -> str:
        before, after = ("absent" if value is _ABSENT else repr(value) for value in (self.before, self.after))
        return f"{'.'.join(map(key_of, self.path))} ({before} -> {after})"


def deciding_changes(before: Config, after: Config) -> list[Change]:
    """The keys that decide results and differ, by path."""
    whole = before.model_dump(mode="json"), after.model_dump(mode="json")
    changes = []
    for change in _changes((), before.deciding, after.deciding):
        if change.path == (TRAINER_RANKS,):
            changes.append(Change(("pools", "trainer", "members"), change.before, change.after))
            continue
        values = change.before, change.after
        # A key that is left out of the identity while it has its default still has a value to show.
        shown = [_at(content, change.path) if v is _ABSENT else v for content, v in zip(whole, values, strict=True)]
        changes.append(Change(change.path, *shown))
    return sorted(changes, key=lambda change: change.path)


def tables_reading(path: tuple[str, ...], segmenting_judge: str | None = None) -> frozenset[str] | None:
    """The tables whose rows depend on a key that may be mended while there are none of them; ``None`` for any other key.

    What a failed start or a round that was stopped for its failures makes one change: engine options, how answers are
    checked, a judge.

    Args:
        segmenting_judge: the judge whose model cuts responses (``segment.judge``).
    """
    match path:
        case ("policy", "engine_args", *_):
            return frozenset({"rollouts", "eval_rollouts"})
        case ("verify", *_):
            return frozenset({"outcomes", "eval_outcomes"})
        case ("judges", name, *rest):
            of_judge = frozenset({f"verdicts.{name}", "weighted"})
            is_cutting = name == segmenting_judge and not _OF_VERDICTS_ALONE.intersection(rest[:1])
            return of_judge | {"steps"} if is_cutting else of_judge
    return None


def check_rerun_changes(stage: str, before: Config, after: Config) -> None:
    """Check that a stage may be run again with these changes.

    Raises:
        UserError: a key that decides results differs, and something before the stage reads it.
    """
    refused = [
        change for change in deciding_changes(before, after) if not marks_at(Config, change.path).may_change_with(stage)
    ]
    if refused:
        raise UserError(
            f"{', '.join(map(str, refused))} cannot change when {stage!r} is run again",
            rule=f"a key may change when the first stage that reads it is run again ({page('config.md')} names it for every key)",
            remedy="run that stage again, or start another run (another --run-dir)",
        )


def _changes(path: tuple[str, ...], before: Any, after: Any) -> Iterator[Change]:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in {**before, **after}:
            yield from _changes((*path, str(key)), before.get(key, _ABSENT), after.get(key, _ABSENT))
    elif before != after:
        yield Change(path, before, after)


def _at(content: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        if not isinstance(content, Mapping) or key not in content:
            return _ABSENT
        content = content[key]
    return content
