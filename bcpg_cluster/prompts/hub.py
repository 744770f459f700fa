"""Names on the Hugging Face hub: which strings can be one, and whether the hub can be asked at all."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
ANSWER_WITHIN_S = 10.0


def is_hub_id(name: str) -> bool:
    """Whether ``name`` has the form of a hub id (``name`` or ``org/name``); anything else can only be a path."""
    return _HUB_ID.fullmatch(name) is not None and ".." not in name


def near_paths(name: str) -> str:
    """What is there under a similar name, for the remedy of an error; empty when nothing is."""
    path = Path(name).expanduser()
    try:
        there = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return "" if is_hub_id(name) else f"the directory {path.parent} does not exist either"
    near = [entry for entry in there if Path(entry).stem == path.name] or difflib.get_close_matches(
        path.name, there, n=1
    )
    return f"did you mean {path.parent / near[0]}?" if near else ""


def why_no_answer(dataset: str | None = None, model: str | None = None) -> str | None:
    """Ask the hub once for a data set or a model; why no answer came, or ``None`` when one did.

    An answer that says no (there is no such name, it is gated) is an answer: the loader will tell it in full. The loaders
    themselves try again for half a minute and more where there is no network. ``HF_HUB_OFFLINE`` is not a lost network.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if constants.HF_HUB_OFFLINE:
        return None
    try:
        if dataset is not None:
            HfApi().dataset_info(dataset, timeout=ANSWER_WITHIN_S)
        if model is not None:
            HfApi().model_info(model, timeout=ANSWER_WITHIN_S)
    except (HfHubHTTPError, OfflineModeIsEnabled, ValueError):  # ValueError: a name the hub would not take
        return None
    except Exception as error:  # the HTTP library's own, which changes with huggingface_hub's releases
        return f"{type(error).__name__}: {error}"
    return None


@contextmanager
def local_copies_only() -> Iterator[None]:
    """Within it the hub's clients of this process take what is in their caches, and fail at once for what is not."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
