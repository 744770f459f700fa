"""Tells the start errors of an engine that another try would only repeat from those it may help."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from bcpg_cluster.errors import BcpgError, StartRefusedError

_REPEATED: Final = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    NotImplementedError,
    ImportError,
    MemoryError,
    OSError,
)
_PASSING: Final = (ConnectionError, TimeoutError, BrokenPipeError)
_NO_MEMORY: Final = ("out of memory", "can't allocate memory", "cannot allocate memory")


@contextmanager
def refusing_starts(model: str) -> Iterator[None]:
    """Raises :class:`StartRefusedError`, with all that the engine said, for an error inside that another try would repeat."""
    try:
        yield
    except BcpgError:
        raise
    except Exception as error:  # vLLM, torch and transformers raise what they like
        if not is_repeated(error):
            raise
        raise StartRefusedError(
            f"the engine of {model} does not start with its options: {said_by(error)}",
            rule="an engine's options fit its model and the memory there is",
            remedy="mend the engine_args of the policy or judge with this model, and run the same command again: it continues, "
            "where nothing has been sampled or judged with them yet",
        ) from error


def is_repeated(error: Exception) -> bool:
    """Whether the same start would end the same: options, files, memory. A lost connection may come back."""
    if isinstance(error, _PASSING):
        return False
    return isinstance(error, _REPEATED) or any(text in str(error).lower() for text in _NO_MEMORY)


def said_by(error: BaseException) -> str:
    """What was raised, whole, and what it was raised from."""
    said: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(said) < 5:
        text = f"{type(seen).__name__}: {seen}"
        if not any(str(seen) and str(seen) in earlier for earlier in said):
            said.append(text)
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return "\n    from ".join(said)
