"""An overview that names no directory of the machine it was made on: a path is shortened to its last part."""

from __future__ import annotations

import re
from dataclasses import replace

from bcpg_cluster.watch.view.overview.records import Overview

_WHOLE = re.compile(r"(?:file://)?[/~.].*/")
_WITHIN = re.compile(r"""(?<![\w/:.~])(?:file://)?(?:~[\w-]*|\.{1,2})?/[^\s'",;)\]}]*""")
"""A path in a text, from its first slash on; addresses such as ``https://host/x`` and ``s3://bucket/x`` are none."""


def without_paths(overview: Overview) -> Overview:
    """The overview for others' eyes: in the configuration, the judges' models, the notices and the events."""
    run = overview.run
    judges = tuple(replace(judge, model=None if judge.model is None else _value(judge.model)) for judge in run.judges)
    return replace(
        overview,
        run=replace(run, why=None if run.why is None else _within(run.why), judges=judges),
        notices=tuple(map(_within, overview.notices)),
        events=tuple(replace(event, text=_within(event.text)) for event in overview.events),
        config=tuple(
            replace(line, value=_value(line.value), default=None if line.default is None else _value(line.default))
            for line in overview.config
        ),
    )


def _value(text: str) -> str:
    """A value that is a path as a whole may hold spaces."""
    return _last_part(text) if _WHOLE.match(text) else _within(text)


def _within(text: str) -> str:
    return _WITHIN.sub(lambda found: _last_part(found.group()), text)


def _last_part(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2] or path
