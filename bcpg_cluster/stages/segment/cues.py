"""Words that begin a new thought, by language, and how they are found.

``REFLECTION_CUES`` doubt what was written and cut a text by its structure; ``STEP_CUES`` also move it on and close a step
when pieces are merged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, Literal, get_args

CueLanguage = Literal["en", "zh", "ja", "ko", "es", "fr", "de"]
CUE_LANGUAGES: Final[tuple[CueLanguage, ...]] = get_args(CueLanguage)

REFLECTION_CUES_BY_LANGUAGE: Final[Mapping[CueLanguage, tuple[str, ...]]] = {
    "en": (
        "wait",
        "but wait",
        "hold on",
        "hmm",
        "alternatively",
        "actually",
        "however",
        "let me check",
        "let me double-check",
        "let me verify",
        "let me recheck",
        "let me think again",
        "let me reconsider",
        "double-check",
    ),
    "zh": (
        "等等",
        "等一下",
        "不对，",
        "不過",
        "不过",
        "但是",
        "然而",
        "其实",
        "另外",
        "或者",
        "让我",
        "再检查",
        "重新检查",
    ),
    "ja": (
        "待って",
        "ちょっと待って",
        "いや、",
        "しかし",
        "ただし",
        "実は",
        "あるいは",
        "確認",
        "もう一度",
        "念のため",
    ),
    "ko": ("잠깐", "잠시만", "아니,", "하지만", "그런데", "사실", "다시 확인", "다시 생각", "확인해"),
    "es": (
        "espera",
        "un momento",
        "pero",
        "sin embargo",
        "en realidad",
        "alternativamente",
        "verifiquemos",
        "comprobemos",
    ),
    "fr": ("attends", "attendez", "un instant", "mais", "cependant", "en fait", "sinon", "vérifions", "revérifions"),
    "de": ("warte", "moment", "halt", "aber", "allerdings", "eigentlich", "alternativ", "prüfen wir", "überprüfen wir"),
}
REFLECTION_CUES: Final = REFLECTION_CUES_BY_LANGUAGE["en"]

STEP_CUES_BY_LANGUAGE: Final[Mapping[CueLanguage, tuple[str, ...]]] = {
    "en": (
        "wait",
        "but wait",
        "hmm",
        "alternatively",
        "let me check",
        "actually",
        "however",
        "so",
        "therefore",
        "now",
        "next",
        "first",
        "second",
        "let's",
        "let\u2019s",  # the same with a typographic apostrophe
    ),
    "zh": (*REFLECTION_CUES_BY_LANGUAGE["zh"], "所以", "因此", "现在", "首先", "其次", "然后", "接下来", "最后"),
    "ja": (*REFLECTION_CUES_BY_LANGUAGE["ja"], "したがって", "よって", "だから", "まず", "次に", "最後に", "では、"),
    "ko": (
        *REFLECTION_CUES_BY_LANGUAGE["ko"],
        "따라서",
        "그러므로",
        "그래서",
        "이제",
        "먼저",
        "다음으로",
        "마지막으로",
    ),
    "es": (
        *REFLECTION_CUES_BY_LANGUAGE["es"],
        "entonces",
        "por lo tanto",
        "por tanto",
        "así que",
        "ahora",
        "primero",
        "luego",
    ),
    "fr": (
        *REFLECTION_CUES_BY_LANGUAGE["fr"],
        "donc",
        "par conséquent",
        "ainsi",
        "maintenant",
        "d'abord",
        "d\u2019abord",
        "ensuite",
    ),
    "de": (*REFLECTION_CUES_BY_LANGUAGE["de"], "also", "daher", "somit", "folglich", "jetzt", "nun", "zuerst", "dann"),
}
STEP_CUES: Final = STEP_CUES_BY_LANGUAGE["en"]

_IS_UNSPACED: Final = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff01-\uff9f\U00020000-\U0003ffff]"
)
"""Scripts that put no space after a word (Chinese, Japanese, Thai, ...) or join particles to it (Korean)."""


def cues_of(by_language: Mapping[CueLanguage, tuple[str, ...]], languages: Sequence[CueLanguage]) -> tuple[str, ...]:
    """The cues of several languages, each once, in order."""
    return tuple(dict.fromkeys(cue for language in languages for cue in by_language[language]))


def any_cue(cues: Sequence[str]) -> str:
    """A regular expression for any of the cues as a whole word, the longest first; it matches nothing without cues."""
    return "|".join(map(_whole_word, sorted(cues, key=len, reverse=True))) or r"(?!)"


def _whole_word(cue: str) -> str:
    return re.escape(cue) + ("" if _IS_UNSPACED.match(cue[-1]) else r"(?!\w)")
