"""Which convention a process reward model follows, and whether it really does. No vendor imports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from bcpg_cluster.errors import ConfigError
from bcpg_cluster.stages.judge.llm.families.families import family_of
from bcpg_cluster.stages.judge.prm.conventions import CONVENTIONS
from bcpg_cluster.stages.judge.prm.layout import Convention
from bcpg_cluster.stages.judge.prm.pathfinder import PathFinder

NAMES: Final = (*CONVENTIONS, PathFinder.name)
ON_TRANSFORMERS: Final = ("skywork", "trl", "implicit", "pathfinder")
"""Conventions that vLLM does not serve here: a head it does not know, two models, or two passes."""

CONTEXT_TOKENS: Final = 512
"""Of earlier tokens that a later window over a long response shows, at least; where nothing else is said."""

_PLAIN_CASE: Final = ("What is 1+1?", ("First, 1+1=2.", "So it is 2."))
_ARCHITECTURES: Final[Mapping[str, str]] = {"Qwen2ForProcessRewardModel": "qwen", "Qwen2ForPrmModel": "skywork"}
_CLASSIFIER: Final = "ForTokenClassification"  # of any family: TRL's
_TRL_LABELS: Final = {"0": "LABEL_0", "1": "LABEL_1"}
# Causal models of these families look like any other one from their files alone: only a name tells.
_NAMES: Final[Mapping[str, str]] = {
    "shepherd": "math_shepherd",
    "rlhflow": "rlhflow",
    "llama3.1-8b-prm": "rlhflow",
    "eurusprm": "implicit",
    "implicitprm": "implicit",
    "pathfinder-prm": "pathfinder",
}


def detect_convention(model: str, config: Mapping[str, Any]) -> str:
    """The convention of a model, by its ``config.json`` and its name.

    Raises:
        ConfigError: neither tells.
    """
    for architecture in config.get("architectures") or ():
        if (family := _family(architecture)) != "causal":
            return family
    named = convention_by_name(model, config)
    if named is not None:
        return named
    _refuse_writers((model, str(config.get("_name_or_path") or "")))
    raise ConfigError(
        f"{model} ({', '.join(config.get('architectures') or ['no architecture stated'])}) does not say which kind of "
        "process reward model it is",
        rule=f"the architecture ({', '.join(_ARCHITECTURES)}, ...{_CLASSIFIER}) or the model's name determines the convention",
        remedy=f"set the judge's convention: {', '.join(NAMES)}; a language model is a judge of kind: llm",
    )


def convention_by_name(model: str, config: Mapping[str, Any]) -> str | None:
    """The family that a causal model's name is of; ``None`` where it says nothing, or two things."""
    names = (model, str(config.get("_name_or_path") or ""))
    found = {convention for part, convention in _NAMES.items() if any(part in name.lower() for name in names)}
    return found.pop() if len(found) == 1 else None


def choose_convention(name: str, model: str, config: Mapping[str, Any]) -> str:
    """A convention that a model's ``config.json`` does not contradict; ``auto`` detects it.

    Raises:
        ConfigError: an unknown name, one that is not the model's, or nothing tells.
    """
    detected = {_family(kind) for kind in config.get("architectures") or ()}
    name = detect_convention(model, config) if name == "auto" else name
    if name not in NAMES:
        raise ConfigError(f"unknown convention {name!r}", rule=f"auto, {', '.join(NAMES)}", remedy="correct the name")
    wanted = name if name in (*_ARCHITECTURES.values(), "trl") else "causal"
    if detected and wanted not in detected:
        raise ConfigError(
            f"{model} is a {', '.join(config['architectures'])}, which is not scored by the convention {name!r}",
            rule="qwen and skywork read a head of their own, trl a token classifier's, math_shepherd, rlhflow, implicit and "
            "pathfinder the output of a causal language model",
            remedy="set the model's own convention, or leave it to be detected",
        )
    if name == "trl":
        _check_labels(model, config)
    return name


def _refuse_writers(names: Sequence[str]) -> None:
    prompt = next(filter(None, map(family_of, names)), None)
    if prompt is not None:
        raise ConfigError(
            f"{names[0]} writes its verdicts, by its name",
            rule="a process reward model of kind: prm gives numbers; one that writes is an LLM judge",
            remedy=f"set kind: llm and prompt: embedded:{prompt}",
        )


def _family(architecture: str) -> str:
    return "trl" if architecture.endswith(_CLASSIFIER) else _ARCHITECTURES.get(architecture, "causal")


def _check_labels(model: str, config: Mapping[str, Any]) -> None:
    """Labels of other names belong to another task, or mean something else by their order."""
    labels = {str(number): str(name) for number, name in (config.get("id2label") or _TRL_LABELS).items()}
    if labels != _TRL_LABELS:
        raise ConfigError(
            f"the labels of {model} are {', '.join(labels.values())}",
            rule="TRL's PRM trainer leaves a token classifier's two labels LABEL_0 (wrong) and LABEL_1 (right)",
            remedy="use a classifier of steps; if this is one, name its labels so in its config.json, wrong before right",
        )


def check_needs(model: str, convention: str, engine: str, *, has_reference: bool) -> None:
    """Raises :class:`ConfigError` for a reference model without use, one that is missing, and an engine that does not serve."""
    if (convention == "implicit") != has_reference:
        raise ConfigError(
            f"{model} follows the convention {convention!r}, and "
            + ("a reference_model was given" if has_reference else "no reference_model was given"),
            rule="an implicit process reward model is compared with the model it was trained from; no other family has one",
            remedy="remove reference_model, or set convention: implicit"
            if has_reference
            else "set reference_model (EurusPRM's is Qwen/Qwen2.5-Math-7B-Instruct)",
        )
    if engine == "vllm" and convention in ON_TRANSFORMERS:
        raise ConfigError(
            f"{model} follows the convention {convention!r}, which vLLM does not serve here",
            rule=f"value heads, token classifiers, two models and two passes ({', '.join(ON_TRANSFORMERS)}) run on transformers",
            remedy="set the judge's engine to transformers, or leave it to be chosen",
        )


def make_convention(
    name: str,
    tokenizer: Any,
    model: str,
    config: Mapping[str, Any],
    *,
    separator: str | None = None,
    system: str | None = None,
) -> Convention:
    """A convention (see :data:`~bcpg_cluster.stages.judge.prm.conventions.CONVENTIONS`) on a model's tokenizer, tried on a case.

    Args:
        name: a key of :data:`CONVENTIONS`, or ``auto`` to detect it.
        config: the model's ``config.json``.
        separator, system: ``None`` for what the family was trained with.

    Raises:
        ConfigError: an unknown name, one that is not the model's, or a tokenizer that does not fit it.
    """
    name = choose_convention(name, model, config)
    if name not in CONVENTIONS:
        raise ConfigError(
            f"the convention {name!r} asks twice about every step",
            rule=f"vLLM and windows serve {', '.join(CONVENTIONS)}",
            remedy="set the judge's engine to transformers, or leave it to be chosen",
        )
    with _naming_misfits(model, name):
        convention = CONVENTIONS[name](tokenizer, model, separator, system)
        tried = convention.render(*_PLAIN_CASE)
    if tried is None:
        raise _unfit(model, name, "the steps of a plain example cannot be told apart in its input")
    return convention


@contextmanager
def _naming_misfits(model: str, name: str) -> Iterator[None]:
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:  # a chat template raises what its author likes
        raise _unfit(model, name, f"its chat template fails: {error}") from error


def _unfit(model: str, name: str, why: str) -> ConfigError:
    return ConfigError(
        f"the tokenizer of {model} does not fit the convention {name!r}: {why}",
        rule="every step has one position in the model's input where it is scored",
        remedy="set the model's own convention, separator and chat template",
    )


def load_convention(
    model: str, engine_args: Mapping[str, Any], name: str, separator: str | None, system: str | None
) -> tuple[Convention, Any, dict[str, Any]]:
    """The convention on the model's own tokenizer; also the tokenizer and the model's ``config.json``.

    Raises:
        ConfigError: see :func:`~bcpg_cluster.stages.judge.prm.detection.make_convention`.
    """
    config = model_config_of(model, engine_args)
    tokenizer = load_tokenizer(model, engine_args)
    return make_convention(name, tokenizer, model, config, separator=separator, system=system), tokenizer, config


def load_pathfinder(
    model: str, engine_args: Mapping[str, Any], separator: str | None, system: str | None
) -> tuple[PathFinder, dict[str, Any]]:
    """PathFinder's inputs on the model's own tokenizer, tried on a case; also the model's ``config.json``.

    Raises:
        ConfigError: another kind of model, or a tokenizer that does not fit.
    """
    config = model_config_of(model, engine_args)
    choose_convention(PathFinder.name, model, config)
    tokenizer = load_tokenizer(model, engine_args)
    with _naming_misfits(model, PathFinder.name):
        family = PathFinder(tokenizer, model, separator, system)
        tried = family.errors(*_PLAIN_CASE)
    if tried is None:
        raise _unfit(model, PathFinder.name, "the labels of a plain example cannot be told apart in its input")
    return family, config


def load_tokenizer(model: str, engine_args: Mapping[str, Any]) -> Any:
    """The tokenizer that ``engine_args`` names, else the model's own."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        engine_args.get("tokenizer") or model, trust_remote_code=engine_args.get("trust_remote_code", False)
    )


def model_config_of(model: str, engine_args: Mapping[str, Any]) -> dict[str, Any]:
    """The model's ``config.json`` as it is: a class for its architecture need not exist."""
    from transformers import PreTrainedConfig

    try:
        config, _ = PreTrainedConfig.get_config_dict(model, revision=engine_args.get("revision"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the config.json of {model} cannot be read: {error}",
            rule="a process reward model is a Hugging Face model directory or id",
            remedy="correct the model, or download it to this machine",
        ) from None
    return dict(config)
