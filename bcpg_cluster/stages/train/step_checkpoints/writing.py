"""Writing the files of a step checkpoint: digested on the way, never with a value that is not finite, errors said in full."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, cast

import torch

from bcpg_cluster.errors import BcpgError, RunDirectoryError, TrainingDivergedError
from bcpg_cluster.stages.push.digest import is_finite
from bcpg_cluster.stages.push.file_digests import FileDigest, digested_file
from bcpg_cluster.store.whole_files import what_helps


def save_digested(content: object, path: Path) -> FileDigest:
    """``torch.save`` to a new file that is on disk when this returns.

    Raises:
        TrainingDivergedError: a weight, or a value of the optimiser's state, is not finite.
        RunDirectoryError: the disk does not take the file.
    """
    name = not_finite(content)
    if name is not None:
        raise TrainingDivergedError(
            f"{name} is not finite after this step, though its loss and gradient were: no step checkpoint was written"
        )
    try:
        with digested_file(path) as file:
            # It writes and flushes, and does nothing else with the file.
            torch.save(content, cast(IO[bytes], file), pickle_module=_PICKLE)
        return file.digest()
    except OSError as error:
        raise unwritten(path, error) from error


class _EnumsByValue(pickle.Pickler):
    """Writes a member of an enumeration as its class and value. CPython 3.11.0 to 3.11.3 write ``getattr`` and its name, which no
    checkpoint may hold: who reads one would have to allow any attribute of anything.
    """

    def reducer_override(self, value: Any) -> Any:
        return (type(value), (value.value,)) if isinstance(value, Enum) else NotImplemented


_PICKLE = SimpleNamespace(__name__="pickle", Pickler=_EnumsByValue)  # what torch uses of such a module


def unwritten(path: Path, error: OSError) -> BcpgError:
    """What to say of a step checkpoint that the disk did not take."""
    return RunDirectoryError(
        f"a step checkpoint could not be written to {path}: {error.strerror or error}",
        rule="the run directory must take what a training writes (train.checkpoint_every_steps; the last two are kept)",
        remedy=f"{what_helps(error)}, and run the same command again: training resumes from the step checkpoint before",
    )


def not_finite(content: object) -> str | None:
    """The name of the first tensor in nested dictionaries and lists that has a NaN or an infinity; ``None`` without one."""
    for name, tensor in _tensors("", content):
        if not is_finite(tensor):
            return name
    return None


def _tensors(name: str, content: object) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(content, torch.Tensor):
        yield name, content
    elif isinstance(content, Mapping):
        for key, value in content.items():
            yield from _tensors(f"{name}.{key}" if name else str(key), value)
    elif isinstance(content, Sequence) and not isinstance(content, str | bytes):
        for place, value in enumerate(content):
            yield from _tensors(f"{name}[{place}]", value)
