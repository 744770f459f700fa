"""A model's files on this machine: a directory as it is, a hub id in the hub's own cache."""

from __future__ import annotations

from pathlib import Path

from bcpg_cluster.errors import DataError

_NOT_WANTED = ["*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.ot", "original/*", "onnx/*", "*.pth", "*.pt"]
_OLD_WEIGHTS = "*.bin"


def local_checkpoint(model: str, revision: str | None = None) -> str:
    """The checkpoint directory of ``model``; a hub id is downloaded once, into the cache that vLLM uses too.

    Args:
        model: a directory, or ``owner/name``.
        revision: branch, tag or commit of a hub id; ``None`` is its main branch. A directory has none.

    Raises:
        DataError: it holds no config.json, or the hub does not give it.
    """
    path = Path(model).expanduser()
    if not path.exists() and not model.startswith(("/", ".", "~")):
        path = Path(_download(model, revision))
    if not (path / "config.json").is_file():
        raise DataError(
            f"{model} holds no config.json",
            rule="a model is a Hugging Face checkpoint directory",
            remedy="give the directory that holds config.json, the tokenizer and the weights",
        )
    return str(path)


def _download(model: str, revision: str | None) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path: str = snapshot_download(model, revision=revision, ignore_patterns=[*_NOT_WANTED, _OLD_WEIGHTS])
        if not any(Path(path).glob("*.safetensors")):  # a model of the time before them
            path = snapshot_download(model, revision=revision, ignore_patterns=_NOT_WANTED)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        where = "" if revision is None else f" at revision {revision!r}"
        raise DataError(
            f"the model {model!r}{where} is not available: {error}",
            rule="a model is a checkpoint directory, or the id of one on the Hugging Face hub",
            remedy="correct the id; log in if the model is gated; without a network, download it first or give a directory",
        ) from error
    return path
