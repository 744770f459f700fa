"""The sections of what is done with a response before any judge sees it: its answer is checked, and it is cut into steps."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from bcpg_cluster.config.identity import Decides
from bcpg_cluster.config.section import Section, check_class
from bcpg_cluster.stages.segment.cues import CueLanguage


class VerifyConfig(Section):
    """How an answer is checked."""

    kind: Literal["exact", "math", "code", "function", "python"] = "exact"
    """``exact`` reads the last match of ``answer_pattern``; ``math`` is math-verify; ``code`` runs the program in the
    response against unit tests in a sandbox; ``function`` calls a function of yours, ``python`` a verifier of yours."""
    answer_pattern: str = r"answer (\S+)"
    """``exact``: a regular expression whose one group is the answer."""
    numeric: bool = True
    """``exact``: compare numbers by value."""
    time_limit_s: float = Field(10.0, gt=0)
    """``math`` and ``function``: seconds for one answer; past them the sample has no reward."""
    function: str | None = None
    """``function``: ``file.py:name`` or ``package.module:name`` of a function of any of (prompt, response, gold, metadata) that
    returns a score in [0, 1], or ``None`` for no reward."""
    function_digest: Annotated[str | None, Decides.WHEN_SET] = None
    """``function`` by file: names the file's content; filled in when the config is read, so that an edited file is another run."""
    threshold: float = Field(1.0, ge=0, le=1)
    """``function``: the least score that earns reward 1."""
    prompt_opens_thinking: bool = False
    """The chat template ends with ``<think>``, so a response without ``</think>`` has no answer."""
    cpu_limit_s: int = Field(6, ge=1)
    """``code``: CPU time of one program, in seconds."""
    wall_limit_s: float = Field(60.0, gt=0)
    """``code``: elapsed time of one program, in seconds."""
    memory_gib: float = Field(2.0, gt=0)
    """``code``: memory of one program, in GiB."""
    idle_limit_s: Annotated[float, Decides.WHEN_SET] = Field(10.0, gt=0)
    """``code``: seconds a program may sleep or wait for nothing; past them it is wrong."""
    overdue_is_wrong: Annotated[bool, Decides.WHEN_SET] = True
    """``code``: a program out of elapsed time has reward 0, unless it mostly waited for a processor; otherwise it has no reward."""
    tolerance: Annotated[float, Decides.WHEN_SET] = Field(1e-6, ge=0)
    """``code``: how far floats that a program prints or returns may be off, absolutely or relatively."""
    packages: Annotated[tuple[str, ...], Decides.WHEN_SET] = ("numpy", "scipy", "sympy", "mpmath")
    """``code``: installed distributions that a program may import besides the standard library."""
    num_parallel: Annotated[int | None, Decides.NEVER] = Field(None, ge=1)
    """``code``: programs that run at once in one member; ``None`` is one for each of its processors."""
    max_error_share: Annotated[float, Decides.NEVER] = Field(0.5, ge=0, le=1)
    """Largest share of a round's samples that the verifier may fail on (an exception, no verdict, out of time), or that the rollout
    engine may give up; above it the run stops and says why."""
    allow_unsandboxed: bool = False
    """``code``: run programs without isolation where the kernel allows none."""
    class_: Annotated[str | None, Decides.WHEN_SET] = Field(None, alias="class")
    """``python``, and needed there: your verifier class, as ``file.py:Name`` or ``package.module:Name``."""
    class_digest: Annotated[str | None, Decides.WHEN_SET] = None
    """``python``: names the content of the file of the verifier class; filled in when the config is read, so that an edited
    file is another run."""
    options: Annotated[dict[str, Any], Decides.WHEN_SET] = Field(default_factory=dict)
    """``python``: keyword arguments the verifier is made with."""

    @model_validator(mode="after")
    def _class_is_named(self) -> VerifyConfig:
        check_class(self.kind, self.class_, self.options)
        return self

    @model_validator(mode="after")
    def _function_is_named(self) -> VerifyConfig:
        if (self.kind == "function") != (self.function is not None):
            raise ValueError("verify.kind 'function' needs verify.function, and no other kind takes one")
        return self


class SegmentConfig(Section):
    """How a wrong response is cut into steps."""

    kind: Literal["structural", "delimiter", "sat", "fixed", "confidence", "entropy", "llm", "python"] = "structural"
    """How pieces are found: by the text's structure (``stages.segment.structure``), at delimiters, by Segment Any Text
    (``sat``, an extra), every so many tokens (``fixed``), where the sampler was unsure (``confidence``, ``entropy``), by a
    judge's model that says where steps begin (``llm``), or by a segmenter of yours (``python``), whose steps are not merged."""
    split_on: Literal["line", "paragraph"] = "line"
    """``structural``: where steps begin: at each ``line``, or at each ``paragraph`` (the line after a blank one)."""
    cues: tuple[str, ...] | None = None
    """``structural``: words of reflection that begin a step; ``null`` is the built-in list, ``[]`` is none."""
    cue_languages: Annotated[tuple[CueLanguage, ...], Decides.WHEN_SET] = Field(("en",), min_length=1)
    """Whose built-in lists ``cues`` and ``merge_cues`` take where they are ``null``: ``[en, zh]`` for responses in English and
    Chinese."""
    cues_inside_lines: bool = False
    """``structural``: let a cue at the beginning of a sentence begin a step too, not only one at the beginning of a line."""
    min_tokens: int = Field(1, ge=1)
    """``structural``: merge a shorter step with a neighbour; ``confidence`` and ``entropy``: a token sooner after the beginning of
    a step begins no other; 1 is off."""
    max_tokens: int = Field(0, ge=0)
    """``structural``: cut a longer step at a line, sentence or word; 0 is off."""
    cut_after: tuple[str, ...] = ("\n\n",)
    """``delimiter``: strings that end a piece."""
    cut_before: tuple[str, ...] = ()
    """``delimiter``: strings that begin a piece."""
    fixed_tokens: Annotated[int, Decides.WHEN_SET] = Field(64, ge=1)
    """``fixed``: tokens of a piece; one that would end inside a formula or code ends after it."""
    below_probability: Annotated[float, Decides.WHEN_SET] = Field(0.3, gt=0, lt=1)
    """``confidence``: a token that the sampler gave a probability below this begins a piece."""
    above_entropy: Annotated[float, Decides.WHEN_SET] = Field(1.0, gt=0)
    """``entropy``: a token where the sampler's entropy was above this, in nats, begins a piece."""
    judge: Annotated[str | None, Decides.WHEN_SET] = None
    """``llm``, and needed there: the judge (of kind ``llm`` or ``openai``) whose model is asked where steps begin, in its pool or
    at its endpoint, with its sampling and its cache."""
    max_lines: Annotated[int, Decides.WHEN_SET] = Field(200, ge=2)
    """``llm``: most numbered lines and sentences in one question; a longer response is asked about in several."""
    merge: bool | Literal["auto"] = "auto"
    """Merge pieces into steps of the sizes below (``stages.segment.merge``); ``auto`` is on for ``delimiter`` and ``sat``."""
    merge_min_tokens: int = Field(64, ge=1)
    """A merged step of at least this many tokens is closed where the next piece begins with a cue."""
    merge_target_tokens: int = Field(256, ge=1)
    """A merged step of at least this many tokens is closed at the end of a paragraph."""
    merge_max_tokens: int = Field(512, ge=0)
    """Never merge pieces beyond this many tokens, and cut a single piece that is longer; 0 is off."""
    merge_cues: tuple[str, ...] | None = None
    """Words that begin a new thought when pieces are merged; ``null`` is the built-in list, ``[]`` merges by size alone."""
    model: str | None = None
    """``sat``, and needed there: the sentence splitter, a directory or hub id such as ``sat-3l-sm``."""
    sat_tokenizer: str | None = None
    """``sat``: the splitter's tokenizer, a directory or hub id; ``null`` takes the one in the model's directory, else the
    package's default."""
    threshold: float = Field(0.25, gt=0, lt=1)
    """``sat``: a sentence ends where the model's probability is above this: 0.25 suits -sm models, 0.025 the others."""
    stride: int = Field(256, ge=1)
    """``sat``: how far the window moves over a long text, in the splitter's tokens; longer is faster and slightly less exact."""
    block_size: int = Field(512, ge=1)
    """``sat``: length of that window, in the splitter's tokens; at least ``stride``."""
    batch_size: int = Field(32, ge=1)
    """``sat``: windows in one forward pass."""
    backend: Literal["auto", "wtpsplit", "wtpsplit-lite"] = "auto"
    """``sat``: the package that runs the model; ``auto`` takes an installed one."""
    onnx_providers: tuple[str, ...] | None = None
    """``sat``: ONNX Runtime's execution providers, in order of preference; ``null`` leaves the choice to the package."""
    device: str | None = None
    """``sat``: PyTorch's device, for instance ``cuda``; ``null`` leaves the choice to the package."""
    class_: Annotated[str | None, Decides.WHEN_SET] = Field(None, alias="class")
    """``python``, and needed there: your segmenter class or function, as ``file.py:Name`` or ``package.module:Name``."""
    class_digest: Annotated[str | None, Decides.WHEN_SET] = None
    """``python``: names the content of the segmenter's file; filled in when the config is read, so that an edited file is another
    run."""
    options: Annotated[dict[str, Any], Decides.WHEN_SET] = Field(default_factory=dict)
    """``python``: keyword arguments the segmenter is made with, or called with where it is a function."""

    @model_validator(mode="after")
    def _class_is_named(self) -> SegmentConfig:
        check_class(self.kind, self.class_, self.options)
        return self

    @model_validator(mode="after")
    def _llm_has_a_judge(self) -> SegmentConfig:
        if (self.kind == "llm") != (self.judge is not None):
            raise ValueError(
                "segment.kind 'llm' needs segment.judge, the judge whose model says where steps begin, and no other kind takes one"
            )
        return self

    @model_validator(mode="after")
    def _sat_has_a_model(self) -> SegmentConfig:
        if self.kind == "sat" and not self.model:
            raise ValueError("segment.kind 'sat' needs segment.model: a directory or hub id, e.g. sat-3l-sm")
        return self
