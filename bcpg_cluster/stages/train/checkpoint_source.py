"""A model's files on this machine: a directory as it is, a hub id in the hub's own cache; and its weights at full precision."""

from __future__ import annotations

from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from bcpg_cluster.errors import DataError

_NOT_WANTED = ["*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.ot", "original/*", "onnx/*", "*.pth", "*.pt"]
_OLD_WEIGHTS = "*.bin"
_FINER = ("F32", "F16")  # safetensors' names of dtypes that bfloat16 rounds, and float32 holds


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


class Float32Weights:
    """Weights that a checkpoint holds to more bits than bfloat16 has, in float32; read one at a time.

    A model loaded in bfloat16 has lost the rest: of float32 the lower halves, which is where a round's small updates are, of
    float16 the last three of ten bits. Master weights have to come from the files (docs/method.md), and so does what adapters are
    merged into: engines read it there.
    """

    def __init__(self, path: str) -> None:
        self._files: dict[str, Path] = {}
        for file in sorted(Path(path).glob("*.safetensors")):
            with safe_open(file, framework="pt") as tensors:
                names = [name for name in tensors.keys() if tensors.get_slice(name).get_dtype() in _FINER]  # noqa: SIM118
            self._files.update(dict.fromkeys(names, file))

    def get(self, name: str) -> Tensor | None:
        """A weight by its name in the checkpoint, exactly; ``None`` where the files lack it, or bfloat16 holds it as well."""
        file = self._files.get(name)
        if file is None:
            return None
        with safe_open(file, framework="pt") as tensors:
            tensor: Tensor = tensors.get_tensor(name)
            return tensor.float()
