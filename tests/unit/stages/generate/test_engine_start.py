"""stages/generate/engine_start.py: which start errors another try would repeat, and what is shown of them."""

from __future__ import annotations

import pytest

from bcpg_cluster.errors import ConfigError, EngineError, StartRefusedError
from bcpg_cluster.stages.generate.engine_start import is_repeated, refusing_starts, said_by


@pytest.mark.parametrize(
    ("error", "repeated"),
    [
        (
            ValueError("To serve at least one request with the model's max seq len (512), 0.1 GiB KV cache is needed"),
            True,
        ),
        (NotImplementedError("no kernel"), True),
        (KeyError("Qwen9ForCausalLM"), True),
        (FileNotFoundError("model.safetensors"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("NCCL error: unhandled system error"), False),
        (ConnectionResetError("peer"), False),
        (TimeoutError("no answer"), False),
    ],
)
def test_which_errors_another_try_would_repeat(error: Exception, repeated: bool):
    assert is_repeated(error) is repeated
    with pytest.raises(StartRefusedError if repeated else type(error)), refusing_starts("m"):
        raise error


def test_all_that_the_engine_said_is_shown():
    with pytest.raises(StartRefusedError) as caught, refusing_starts("/models/m"):
        try:
            raise RuntimeError("line one\nline two")
        except RuntimeError as error:
            raise ValueError("the options\nare wrong") from error
    assert caught.value.problem == (
        "the engine of /models/m does not start with its options: ValueError: the options\nare wrong\n"
        "    from RuntimeError: line one\nline two"
    )
    assert caught.value.rule and "engine_args" in caught.value.remedy


def test_what_one_error_repeats_of_another_is_shown_once():
    error = ValueError("again: no memory")
    error.__cause__ = RuntimeError("no memory")
    assert said_by(error) == "ValueError: again: no memory"


@pytest.mark.parametrize("error", [ConfigError("p", rule="r", remedy="m"), EngineError("gone")])
def test_errors_of_ours_stay_as_they_are(error: Exception):
    with pytest.raises(type(error)) as caught, refusing_starts("m"):
        raise error
    assert caught.value is error
