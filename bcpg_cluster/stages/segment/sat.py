"""Segment Any Text as a segmenter: sentences by a trained model, merged into steps (arXiv 2406.16678; docs/method.md).

Two packages carry it, with the same class name and nearly the same options: ``wtpsplit`` (PyTorch or ONNX) and
``wtpsplit-lite`` (ONNX alone, few dependencies). Their weights come from the Hugging Face hub or from a directory.

A splitter's pieces must join to the text, or steps would lose their tokens. Both packages keep that promise only with
white space kept and line breaks read as spaces, which is why these options are not the caller's to choose.
"""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, Protocol

from bcpg_cluster.errors import ConfigError, EngineError
from bcpg_cluster.records import Step
from bcpg_cluster.stages.segment.merge import MergeRules, merge_pieces
from bcpg_cluster.stages.segment.segmenters import blank_line_cuts

Backend = Literal["auto", "wtpsplit", "wtpsplit-lite"]

HUB_PREFIX = "segment-any-text"
WEIGHTS = ("model_optimized.onnx", "model.safetensors", "pytorch_model.bin")  # any one of them, in this order of liking
_MODULES = {"wtpsplit": "wtpsplit", "wtpsplit-lite": "wtpsplit_lite"}

# The option that keeps line breaks inside the pieces: its name, and the value that does so. wtpsplit first; it still knows
# the other name, but as an old one.
_KEEPS_LINE_BREAKS: Mapping[str, bool] = {"split_on_input_newlines": False, "treat_newline_as_space": True}


class Splitter(Protocol):
    """What is asked of ``wtpsplit.SaT``; its ``split`` takes one text and more options than are named here."""

    def split(self, text_or_texts: str, /, **options: Any) -> Any:
        """The pieces of a text, in order."""
        ...


class SatSegmenter:
    """A :data:`bcpg_cluster.stages.segment.segmenters.Segmenter` by a sentence splitter. Thread-safe: one text at a time.

    Args:
        splitter: see :func:`load_sat`.
        threshold: a sentence ends where the model's probability is above it. There is no default: the packages choose
            one by the letters in the model's path, so a renamed directory would cut otherwise. 0.25 suits the ``-sm``
            models, 0.025 the others.
        merge: how sentences become steps; ``None`` makes a step of every sentence.
        stride, block_size: of the window that slides over a long text, in the splitter's tokens; a longer stride is faster
            and a little less exact.
        batch_size: windows per forward.

    Raises:
        ConfigError: invalid numbers, or a splitter that cannot keep line breaks.
    """

    def __init__(
        self,
        splitter: Splitter,
        *,
        threshold: float,
        merge: MergeRules | None,
        stride: int = 256,
        block_size: int = 512,
        batch_size: int = 32,
    ) -> None:
        check_sat_numbers(threshold, stride, block_size, batch_size)
        self.merge = merge
        self._splitter = splitter
        self._lock = threading.Lock()  # `catch_warnings` changes the whole process
        self._options = {
            "threshold": threshold,
            "stride": stride,
            "block_size": block_size,
            "batch_size": batch_size,
            "strip_whitespace": False,
            **_line_break_option(splitter),
        }

    def __call__(self, token_texts: Sequence[str]) -> list[Step]:
        """The steps of a response.

        Raises:
            EngineError: see :meth:`pieces`.
        """
        text = "".join(token_texts)
        ends = list(accumulate(map(len, self.pieces(text))))
        # The model reads line breaks as spaces, so that a paragraph without a full stop would run into the next.
        return merge_pieces(token_texts, [*ends, *blank_line_cuts(text)], self.merge)

    def pieces(self, text: str) -> list[str]:
        """The splitter's own pieces. Text without visible characters is one piece and asks no model.

        Raises:
            EngineError: the splitter failed, or its pieces do not join to ``text``.
        """
        if not text.strip():
            return [text] if text else []
        with self._lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # wtpsplit warns that line breaks stay, which is what is wanted
            try:
                pieces = list(self._splitter.split(text, **self._options))
            except Exception as error:  # onnxruntime, torch and tokenizers raise what they like
                raise EngineError(
                    f"the sentence splitter failed on a text of {len(text)} characters: {error}"
                ) from error
        _check_pieces(pieces, text)
        return pieces


def check_sat_numbers(threshold: float, stride: int, block_size: int, batch_size: int) -> None:
    """Raises :class:`ConfigError` for numbers that no splitter can use."""
    if not 0 < threshold < 1:
        raise ConfigError(
            f"threshold is {threshold}",
            rule="a probability between 0 and 1, both left out",
            remedy="0.25 for the -sm models, 0.025 for the others",
        )
    if not 0 < stride <= block_size or batch_size < 1:
        raise ConfigError(
            f"stride {stride}, block_size {block_size}, batch_size {batch_size}",
            rule="1 <= stride <= block_size, batch_size >= 1 (a longer stride would leave text unread)",
            remedy="stride 256 and block_size 512 suit long responses",
        )


def _line_break_option(splitter: Splitter) -> dict[str, bool]:
    """The option under the name that this splitter has for it."""
    known = inspect.signature(splitter.split).parameters
    for name, value in _KEEPS_LINE_BREAKS.items():
        if name in known:
            return {name: value}
    raise ConfigError(
        f"{type(splitter).__module__}.{type(splitter).__qualname__}.split has none of {list(_KEEPS_LINE_BREAKS)}",
        rule="the pieces must join to the text, line breaks included",
        remedy="install wtpsplit >= 2.1 or wtpsplit-lite >= 0.2",
    )


def _check_pieces(pieces: Sequence[Any], text: str) -> None:
    """Raises :class:`EngineError` where the pieces leave the text, so that no step is made of other text."""
    at = 0
    for number, piece in enumerate(pieces):
        if not isinstance(piece, str):
            raise EngineError(f"the sentence splitter gave a {type(piece).__name__} as piece {number}, not a string")
        if not text.startswith(piece, at):
            raise EngineError(
                f"the sentence splitter's piece {number} is {piece[:80]!r} where the text has "
                f"{text[at : at + len(piece)][:80]!r} (character {at}); its pieces must join to the text"
            )
        at += len(piece)
    if at != len(text):
        raise EngineError(f"the sentence splitter's pieces end at character {at} of {len(text)}")


def load_sat(
    model: str,
    *,
    tokenizer: str | None = None,
    backend: Backend = "auto",
    providers: Sequence[str] | None = None,
    device: str | None = None,
) -> Splitter:
    """The model in memory, ready to split.

    Args:
        model: a local directory, a name of the hub's ``segment-any-text`` (``sat-3l-sm``), or a full hub id.
        tokenizer: a local directory or hub id; by default ``model`` when that directory holds a ``tokenizer.json``, else
            the package's own (``facebookAI/xlm-roberta-base`` of the hub).
        backend: ``auto`` takes ``wtpsplit`` where it is installed, else ``wtpsplit-lite``.
        providers: ONNX Runtime's execution providers. Without them wtpsplit runs on PyTorch, and wtpsplit-lite takes the
            best provider there is.
        device: where wtpsplit's PyTorch model goes (``cuda``), in half precision off the CPU; not for ONNX.

    Raises:
        ConfigError: neither package is installed, the directory lacks what is needed, or the model cannot be
            loaded.
    """
    check_sat_model(model, tokenizer, backend=backend, needs_onnx=providers is not None)
    package = _package(backend)
    options: dict[str, Any] = {} if providers is None else {"ort_providers": list(providers)}
    options["hub_prefix"] = None if "/" in model or Path(model).is_dir() else HUB_PREFIX
    if tokenizer is None and (Path(model) / "tokenizer.json").is_file():
        tokenizer = model
    if tokenizer is not None:
        options["tokenizer_name_or_path"] = tokenizer
    sat = _sat_class(package)
    try:
        splitter = sat(model, **options)
        if device is not None:
            splitter = splitter.to(device) if device == "cpu" else splitter.half().to(device)
    except Exception as error:  # hub, tokenizers, torch and onnxruntime raise what they like
        raise ConfigError(
            f"{package} cannot load {model!r}: {type(error).__name__}: {error}",
            rule="segment.model is a directory with weights, config.json and tokenizer.json, or a hub id that can be reached",
            remedy=f"download {HUB_PREFIX}/sat-3l-sm and the tokenizer of facebookAI/xlm-roberta-base into one directory",
        ) from error
    return splitter


def check_sat_model(
    model: str, tokenizer: str | None = None, *, backend: Backend = "auto", needs_onnx: bool = False
) -> None:
    """Check that a package is installed and a local directory complete; loads nothing and asks no hub.

    Raises:
        ConfigError: says what is missing.
    """
    needs_onnx = _package(backend) == "wtpsplit-lite" or needs_onnx
    directory = Path(model)
    if directory.is_dir():
        wanted = WEIGHTS[:1] if needs_onnx else WEIGHTS
        missing = [] if any((directory / name).is_file() for name in wanted) else [" or ".join(wanted)]
        missing += [] if (directory / "config.json").is_file() else ["config.json"]
        if missing:
            raise ConfigError(
                f"{model} has no {', no '.join(missing)}",
                rule="a local SaT model is a directory with its weights and config.json"
                + (" (in ONNX form, for this backend)" if needs_onnx else ""),
                remedy=f"download all files of the model from the hub's {HUB_PREFIX}",
            )
    elif model.startswith((".", "/", "~")):
        raise ConfigError(
            f"{model} is not a directory",
            rule="segment.model is a directory, a hub id, or a name such as sat-3l-sm",
            remedy="correct the path",
        )
    if tokenizer is not None and tokenizer.startswith((".", "/", "~")) and not Path(tokenizer).exists():
        raise ConfigError(
            f"{tokenizer} does not exist",
            rule="the splitter's tokenizer is a directory or a hub id",
            remedy="correct the path, or leave it out",
        )


def _package(backend: Backend) -> str:
    """The installed package of this backend, by its name on the package index."""
    from importlib.util import find_spec

    asked = tuple(_MODULES) if backend == "auto" else (backend,)
    for name in asked:
        if find_spec(_MODULES[name]) is not None:
            return name
    raise ConfigError(
        f"{' and '.join(asked)} {'are' if len(asked) > 1 else 'is'} not installed",
        rule="segment.kind sat needs a package that carries Segment Any Text",
        remedy="pip install 'bcpg-cluster[sat]' (ONNX), or pip install wtpsplit",
    )


def _sat_class(package: str) -> Any:
    from importlib import import_module

    return import_module(_MODULES[package]).SaT
