"""Whether a model directory is what it claims to be: whole weights, a known data type, the right kind of model."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, Literal

from bcpg_cluster.errors import DataError
from bcpg_cluster.run.preflight.context import model_config

_DTYPES = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "auto", "half", "float")
_NOT_CAUSAL = (
    "RewardModel", "PrmModel", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering",
    "ForMaskedLM", "ForMultipleChoice", "ForImageClassification",
)  # fmt: skip
_PICKLED = ("*.bin", "*.pt", "*.pth")
_GGUF = "*.gguf"
_BYTES_LOOKED_AT = 256 * 1024  # of a tensor
_FLOATS = {  # integers of their width, and the exponent that only NaN and infinities have
    "BF16": ("uint16", 0x7F80),
    "F16": ("uint16", 0x7C00),
    "F32": ("uint32", 0x7F800000),
    "F64": ("uint64", 0x7FF0000000000000),
}
_MAX_HEADER_BYTES = 100 * 2**20  # of the safetensors format

Purpose = Literal["causal", "prm"]


def check_model_files(key: str, model: Path, purpose: Purpose, *, needs_weights: bool) -> None:
    """Check a model directory.

    Args:
        key: where the configuration names it.
        purpose: what it is used as: a ``causal`` language model, or a process reward model.
        needs_weights: weights must be there (an engine may be told to load none).

    Raises:
        DataError: weights are cut off, incomplete or missing; ``config.json`` is no JSON object or names an unknown data type; it
            is another kind of model.
    """
    config = model_config(str(model))
    if not config:
        raise DataError(
            f"{key}: {model / 'config.json'} is not a JSON object",
            rule="a model's config.json is a JSON object with its architecture and sizes",
            remedy="download or copy the model again",
        )
    _check_purpose(key, model, config, purpose)
    _check_dtype(key, model, config)
    files = sorted(model.glob("*.safetensors"))
    for file in files:
        _check_safetensors(key, file)
    _check_index(key, model)
    has_weights = files or any(any(model.glob(pattern)) for pattern in (*_PICKLED, _GGUF))
    if needs_weights and not has_weights:
        raise DataError(
            f"{key}: {model} has no weights",
            rule="a local model is a Hugging Face checkpoint directory: config.json, weights, tokenizer files",
            remedy="copy its *.safetensors there too (Git LFS: `git lfs pull`)",
        )


def _check_purpose(key: str, model: Path, config: dict[str, Any], purpose: Purpose) -> None:
    kinds = [str(kind) for kind in config.get("architectures") or ()]
    others = [kind for kind in kinds if kind.endswith(_NOT_CAUSAL)]
    if purpose == "causal" and others:
        raise DataError(
            f"{key}: {model} is a {', '.join(others)}",
            rule="a policy and a judge that writes are causal language models (…ForCausalLM); a reward model writes nothing",
            remedy="give a language model here; a process reward model is a judge of kind: prm",
        )


def _check_dtype(key: str, model: Path, config: dict[str, Any]) -> None:
    for name in ("dtype", "torch_dtype"):
        found = config.get(name)
        if found is not None and str(found).removeprefix("torch.") not in _DTYPES:
            raise DataError(
                f"{key}: {model / 'config.json'} says {name} {found!r}",
                rule=f"a model's data type is one of {', '.join(_DTYPES[:6])}",
                remedy="correct config.json, or download the model again",
            )


def _check_safetensors(key: str, file: Path) -> None:
    """Raises :class:`DataError` for a file that is shorter or longer than its header says."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        header_bytes = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        header = opened.read(header_bytes) if 0 < header_bytes <= min(size, _MAX_HEADER_BYTES) else b""
    if start.startswith(b"version "):
        raise _damaged(
            key, file, "is the pointer that Git LFS keeps in the place of a file", "fetch it: `git lfs pull`"
        )
    try:
        content = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in content.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise _damaged(key, file, f"has {size:,} bytes and no readable header") from None
    wanted = 8 + header_bytes + max(ends, default=0)
    if size != wanted:
        raise _damaged(key, file, f"has {size:,} bytes, and its header says {wanted:,}")
    _check_finite(key, file, content, 8 + header_bytes)


def _check_finite(key: str, file: Path, header: dict[str, Any], start: int) -> None:
    """Raises :class:`DataError` for a tensor whose beginning has a NaN or an infinity: a diverged training leaves them all over."""
    import numpy as np

    with file.open("rb") as opened:
        for name, entry in header.items():
            if entry.get("dtype") not in _FLOATS:
                continue
            kind, exponent = _FLOATS[entry["dtype"]]
            begin, end = entry["data_offsets"]
            opened.seek(start + begin)
            bits = np.frombuffer(opened.read(min(end - begin, _BYTES_LOOKED_AT)), kind)
            if bool((bits & np.array(exponent, kind) == exponent).any()):
                raise DataError(
                    f"{key}: {file} has values that are not finite in {name}",
                    rule=f"weights are finite numbers (the first {_BYTES_LOOKED_AT // 1024} KiB of every tensor are read here)",
                    remedy="give a checkpoint from before its training diverged, or copy it again",
                )


def _check_index(key: str, model: Path) -> None:
    """Raises :class:`DataError` when a file that the index of the weights names is not there."""
    index = model / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        named = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"{key}: {index} is not an index of weights",
            rule="it is a JSON object whose weight_map names the file of each tensor",
            remedy="download or copy it again",
        ) from None
    missing = [name for name in named if not (model / name).is_file()]
    if missing:
        raise DataError(
            f"{key}: {model} lacks {len(missing)} of {len(named)} files of its weights: {', '.join(missing[:5])}",
            rule="every file that model.safetensors.index.json names is there",
            remedy="finish the download or the copy",
        )


def _damaged(key: str, file: Path, what: str, remedy: str = "download or copy it again") -> DataError:
    return DataError(
        f"{key}: {file} {what}", rule="a weights file is whole: its header says where its tensors end", remedy=remedy
    )
