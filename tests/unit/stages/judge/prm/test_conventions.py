"""Where a step's score is in each family's input, how long responses are windowed, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcpg_cluster.errors import ConfigError, EngineError
from bcpg_cluster.records import VerdictStatus
from bcpg_cluster.stages.judge.prm.conventions import CONVENTIONS, QWEN_SYSTEM
from bcpg_cluster.stages.judge.prm.detection import check_needs, detect_convention, make_convention
from bcpg_cluster.stages.judge.prm.implicit_scorer import sigmoid, step_sums
from bcpg_cluster.stages.judge.prm.layout import Rendered
from bcpg_cluster.stages.judge.prm.windows import (
    Window,
    WindowInput,
    judgement,
    plan_windows,
    to_judgements,
    window_inputs,
)
from bcpg_cluster.stages.judge.protocol import JudgeCase, Judgement

CAUSAL = {"architectures": ["LlamaForCausalLM"]}
REFUSED = Judgement(VerdictStatus.REFUSED)


class CharTokenizer:
    """A token a character, and a token for each special string; chats are ``[role]content<end>``."""

    is_fast, chat_template, bos_token, unk_token_id, bos_token_id = True, "yes", "<s>", 0, 0x110000
    special = ("<s>", "<end>", "<extra_0>", " ки")

    def __init__(self, special: Sequence[str] = special, template: str = "[{role}]{content}<end>") -> None:
        self._special, self._template = special, template
        self.all_special_tokens = [text for text in special if text.startswith("<")]

    def _pieces(self, text: str) -> list[str]:
        return re.findall("|".join(map(re.escape, self._special)) + "|(?s:.)", text)

    def get_vocab(self) -> dict[str, int]:
        return {text: 0x110000 + index for index, text in enumerate(self._special)}

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        text = {"ки": " ки", "+ -": "+-"}.get(text, text)  # a sentence piece begins with its blank
        ids = [self.get_vocab().get(piece) or ord(piece) for piece in self._pieces(text)]
        return [self.get_vocab()["<s>"], *ids] if add_special_tokens else ids

    def apply_chat_template(self, messages: Any, tokenize: bool = True, **_: Any) -> Any:
        text = "".join(self._template.format(**message) for message in messages)
        return self.encode(text, add_special_tokens=False) if tokenize else text

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        offsets, at = [], 0
        for piece in self._pieces(text):
            offsets.append((at, at + len(piece)))
            at += len(piece)
        return {"input_ids": self.encode(text, add_special_tokens=False), "offset_mapping": offsets}

    def show(self, token_ids: Sequence[int]) -> str:
        back = {number: text for text, number in self.get_vocab().items()}
        return "".join(back.get(number) or chr(number) for number in token_ids)


def convention(name: str, tokenizer: Any = None, **options: Any) -> Any:
    return make_convention(name, tokenizer or CharTokenizer(), "some/model", {}, **options)


# --- what the model is shown -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shown", "before_score"),
    [
        (
            "qwen",
            f"[system]{QWEN_SYSTEM}<end>[user]1+1+1?<end>[assistant]1+1=2<extra_0>2+1=3<extra_0><end>",
            ["1+1=2", "2+1=3"],
        ),
        ("math_shepherd", "<s>1+1+1? 1+1=2 ки\n2+1=3 ки", ["1+1=2", "2+1=3"]),
        (
            "rlhflow",
            "[user]1+1+1? 1+1=2<end>[assistant]+<end>[user]2+1=3<end>[assistant]+<end>",
            ["[assistant", "[assistant"],
        ),
        ("skywork", "<s>1+1+1?\n1+1=2\n2+1=3\n", ["1+1=2", "2+1=3"]),
        ("trl", "<s>1+1+1?1+1=2\n2+1=3\n", ["1+1=2", "2+1=3"]),
    ],
)
def test_layout_and_positions(name: str, shown: str, before_score: list[str]) -> None:
    tokenizer = CharTokenizer()
    rendered = convention(name, tokenizer).render("1+1+1?", ("1+1=2\n", "2+1=3\n\n"))
    assert tokenizer.show(rendered.token_ids) == shown
    assert [tokenizer.show(rendered.token_ids[:place]).endswith(end) for place, end in
            zip(rendered.positions, before_score, strict=True)] == [True, True]  # fmt: skip


def test_rlhflow_reads_the_place_before_the_answer_though_steps_hold_plus_signs() -> None:
    tokenizer = CharTokenizer()
    rlhflow = convention("rlhflow", tokenizer)
    rendered = rlhflow.render("+ + +?", ("1+1", "+", "2+"))
    assert rlhflow.pair == (ord("+"), ord("-"))
    assert [tokenizer.show(rendered.token_ids[place : place + 3]) for place in rendered.positions] == ["]+<end>"] * 3
    assert rlhflow.separator_id is None


def test_skywork_puts_a_step_on_one_line_and_leaves_the_problem_alone() -> None:
    tokenizer = CharTokenizer()
    rendered = convention("skywork", tokenizer).render("a\nb", ("c\n\n  d\n", "", "e"))
    assert tokenizer.show(rendered.token_ids) == "<s>a\nb\nc d\n\ne\n"
    assert rendered.positions == (8, 9, 11)


def test_trl_reads_the_end_of_a_separator_and_leaves_line_breaks_inside_a_step() -> None:
    tokenizer = CharTokenizer()
    rendered = convention("trl", tokenizer, separator="\n\n").render("a\n\nb", ("c\nd\n", "", "e"))
    assert tokenizer.show(rendered.token_ids) == "<s>a\n\nbc\nd\n\n\n\ne\n\n"
    assert rendered.positions == (9, 11, 14)
    tokenizer.bos_token_id = None  # type: ignore[assignment]  # Qwen's
    assert tokenizer.show(convention("trl", tokenizer).render("a", ("b",)).token_ids) == "ab\n"


def test_implicit_counts_a_separator_for_the_step_before_and_the_end_of_turn_for_the_last() -> None:
    tokenizer = CharTokenizer()
    rendered = convention("implicit", tokenizer).render("a?", ("bc\n", "d", "ef"))
    assert tokenizer.show(rendered.token_ids) == "[user]a?<end>[assistant]bc\n\nd\n\nef<end>"
    borders = [rendered.start, *(position + 1 for position in rendered.positions)]
    parts = [tokenizer.show(rendered.token_ids[begin:end]) for begin, end in pairwise(borders)]
    assert parts == ["bc\n\n", "d\n\n", "ef<end>"]
    assert convention("implicit", tokenizer).version == "implicit-prm/'\\n\\n'"


def test_implicit_refuses_what_has_no_tokens_of_its_own() -> None:
    implicit = convention("implicit", CharTokenizer())
    assert implicit.render("a?", ("b", "", "c")) is not None  # its separator is a token here
    assert implicit.render("a?", ("b", "")) is not None  # and here the end of the turn is
    assert convention("implicit", CharTokenizer(template="[{role}]{content}")).render("a?", ("b", "")) is None
    # A token that spans a border belongs to the step it begins in; the step after it has none left.
    assert convention("implicit", CharTokenizer(("<s>", "<end>", "b\n\nc\n\n"))).render("a?", ("b", "c", "d")) is None


def test_steps_add_up_by_hand() -> None:
    rendered = Rendered((9,) * 8, (3, 5, 6), start=2)
    assert step_sums([-1.0, -2.0, -4.0, -8.0, -16.0], rendered) == [-3.0, -12.0, -16.0]
    assert sigmoid(0.0) == 0.5
    assert sigmoid(0.001 * 20) == pytest.approx(
        0.504999833
    )  # 20 nats at EurusPRM's beta: close to 0.5, on the right side
    assert (sigmoid(-1e6), sigmoid(1e6)) == (0.0, 1.0)
    assert judgement(sigmoid(float("nan"))).status is VerdictStatus.UNPARSABLE


def test_system_and_separator_are_in_the_version() -> None:
    tokenizer = CharTokenizer(("<s>", "<end>", "<extra_0>", "<extra_1>", " ки"))
    made = [
        convention("qwen", tokenizer),
        convention("qwen", tokenizer, separator="<extra_1>"),
        convention("qwen", tokenizer, system="Be strict."),
        convention("qwen", tokenizer, system=""),
        *(convention(name, tokenizer) for name in ("math_shepherd", "rlhflow", "skywork", "trl")),
        *(convention(name, tokenizer, system="Be strict.") for name in ("math_shepherd", "rlhflow", "skywork", "trl")),
    ]
    assert len({one.version for one in made}) == len(made)
    assert made[0].version == "qwen-prm/<extra_0>"
    assert len({one.render("1", ("2",)).token_ids for one in made}) == len(made)


@pytest.mark.parametrize(
    ("name", "problem", "steps"),
    [
        ("qwen", "a <extra_0> b", ("c",)),
        ("qwen", "a", ("c", "d<extra_0>")),
        ("qwen", "a", ("c<end>[user]d",)),
        ("math_shepherd", "Какой ки?", ("c",)),
        ("math_shepherd", "a", ("b", "c ки d")),
        ("rlhflow", "a", ("b<end>[assistant]+",)),
        ("rlhflow", "a", ("\ue000",)),
        ("skywork", "a<s>", ("b",)),
        ("trl", "a", ("b<end>",)),
    ],
)
def test_text_that_would_shift_scores_is_refused(name: str, problem: str, steps: tuple[str, ...]) -> None:
    assert convention(name).render(problem, steps) is None
    assert convention(name).render("a", ("b",)) is not None
    cases = [JudgeCase(problem, steps), JudgeCase("a", ("b", "c"))]
    inputs = window_inputs(convention(name), cases, 1000, 10)
    judged = to_judgements(cases, inputs, [[0.5] * len(part.rendered.positions) for part in inputs])
    assert judged[0] == (REFUSED,) * len(steps)
    assert [one.score for one in judged[1]] == [0.5, 0.5]


# --- tokenizers and models that do not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tokenizer", "options", "words"),
    [
        ("qwen", CharTokenizer(("<s>",)), {}, "'<extra_0>' is not a token of some/model"),
        ("qwen", CharTokenizer(), {"separator": "<extra_9>"}, "<extra_9>"),
        ("math_shepherd", CharTokenizer(("<s>", "<end>")), {}, "3 and '[+] -' into 2 tokens"),
        ("math_shepherd", CharTokenizer(), {"separator": "no"}, "'no' into 2"),
        ("skywork", CharTokenizer(), {"separator": "ab"}, "'ab' is 2 tokens"),
        ("trl", CharTokenizer(), {"separator": ""}, "separator '' has 0 tokens"),
        ("rlhflow", CharTokenizer(), {"separator": "<extra_0>"}, "separator '<extra_0>' was given"),
        # The template's header runs into the answer: no token of its own is scored.
        (
            "rlhflow",
            CharTokenizer(("<s>", "]>+", "]>-"), "[{role}]>{content}<end>"),
            {},
            "cannot be served like RLHFlow",
        ),
        ("qwen", CharTokenizer(template="{missing}"), {}, "chat template fails: KeyError|fails: 'missing'"),
        ("qwen", CharTokenizer(template="{role}"), {}, "cannot be told apart"),
        ("nonsense", CharTokenizer(), {}, "unknown convention 'nonsense'"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_an_error(name: str, tokenizer: Any, options: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        convention(name, tokenizer, **options)


def test_chats_need_a_template() -> None:
    tokenizer = CharTokenizer()
    tokenizer.chat_template = None  # type: ignore[assignment]
    for name in ("qwen", "rlhflow"):
        with pytest.raises(ConfigError, match="no chat template"):
            convention(name, tokenizer)


@pytest.mark.parametrize(
    ("model", "config", "found"),
    [
        ("/models/mine", {"architectures": ["Qwen2ForProcessRewardModel"]}, "qwen"),
        ("/models/mine", {"architectures": ["Qwen2ForPrmModel"]}, "skywork"),
        ("/models/mine", {"architectures": ["LlamaForTokenClassification"]}, "trl"),
        ("peiyi9979/math-shepherd-mistral-7b-prm", {"architectures": ["MistralForCausalLM"]}, "math_shepherd"),
        ("RLHFlow/Llama3.1-8B-PRM-Deepseek-Data", CAUSAL, "rlhflow"),
        ("/models/mine", CAUSAL | {"_name_or_path": "RLHFlow/Llama3.1-8B-PRM-Mistral-Data"}, "rlhflow"),
        ("PRIME-RL/EurusPRM-Stage2", {"architectures": ["Qwen2ForCausalLM"]}, "implicit"),
    ],
)
def test_detection(model: str, config: dict[str, Any], found: str) -> None:
    assert detect_convention(model, config) == found
    assert make_convention("auto", CharTokenizer(), model, config).name == found


def test_families_with_rules_of_their_own_are_detected_too() -> None:
    assert detect_convention("declare-lab/PathFinder-PRM-7B", {"architectures": ["Qwen2ForCausalLM"]}) == "pathfinder"
    with pytest.raises(ConfigError, match="'pathfinder' asks twice about every step"):
        make_convention("auto", CharTokenizer(), "declare-lab/PathFinder-PRM-7B", CAUSAL)
    for model, prompt in (
        ("launch/ThinkPRM-1.5B", "thinkprm"),
        ("GenPRM/GenPRM-7B", "genprm"),
        ("kevinpro/R-PRM-7B-DPO", "rprm"),
    ):
        with pytest.raises(ConfigError, match="writes its verdicts") as caught:
            detect_convention(model, CAUSAL)
        assert caught.value.remedy == f"set kind: llm and prompt: embedded:{prompt}"


@pytest.mark.parametrize(
    ("convention", "engine", "has_reference", "words"),
    [
        ("implicit", "auto", False, "no reference_model was given"),
        ("qwen", "auto", True, "a reference_model was given"),
        ("implicit", "vllm", True, "which vLLM does not serve"),
        ("pathfinder", "vllm", False, "which vLLM does not serve"),
        ("trl", "vllm", False, "which vLLM does not serve"),
        ("implicit", "auto", True, None),
        ("qwen", "vllm", False, None),
    ],
)
def test_what_a_convention_needs(convention: str, engine: str, has_reference: bool, words: str | None) -> None:
    if words is None:
        check_needs("m", convention, engine, has_reference=has_reference)
        return
    with pytest.raises(ConfigError, match=words):
        check_needs("m", convention, engine, has_reference=has_reference)


def test_an_ordinary_model_is_not_taken_for_a_reward_model() -> None:
    for config in (CAUSAL, {}, {"architectures": None}):
        with pytest.raises(ConfigError, match="math_shepherd"):
            detect_convention("meta-llama/Llama-3.1-8B-Instruct", config)
    with pytest.raises(ConfigError, match="LlamaForCausalLM, which is not scored by the convention 'qwen'"):
        make_convention("qwen", CharTokenizer(), "m", CAUSAL)
    with pytest.raises(ConfigError, match="not scored by the convention 'rlhflow'"):
        make_convention("rlhflow", CharTokenizer(), "m", {"architectures": ["Qwen2ForPrmModel"]})
    assert make_convention("math_shepherd", CharTokenizer(), "m", CAUSAL).name == "math_shepherd"


# --- windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "budget", "context", "windows"),
    [
        ([3, 3, 3], 9, 3, [Window(0, 0, 3)]),
        # 0 1 2, then 1-step context and two new ones, and so on.
        ([3, 3, 3, 3, 3, 3], 9, 3, [Window(0, 0, 3), Window(2, 3, 5), Window(3, 5, 6)]),
        # More context asked for: only one new step a window.
        ([3, 3, 3, 3, 3], 9, 6, [Window(0, 0, 3), Window(1, 3, 4), Window(2, 4, 5)]),
        # Step 1 is too long for any window, and step 2 has nothing to stand on; step 3 has step 2.
        ([3, 10, 3, 3], 9, 3, [Window(0, 0, 1), Window(2, 3, 4)]),
        # Two that fit alone but not together: the second is not scored without the first.
        ([6, 6, 2], 9, 3, [Window(0, 0, 1), Window(1, 2, 3)]),
        ([10], 9, 3, []),
        ([], 9, 3, []),
    ],
)
def test_windows_by_hand(lengths: list[int], budget: int, context: int, windows: list[Window]) -> None:
    assert plan_windows(lengths, budget, context) == windows


@given(
    st.lists(st.integers(1, 30), max_size=40), st.integers(1, 60), st.integers(0, 60)
)  # fmt: skip
def test_windows_score_each_step_once_with_all_the_context_that_fits(
    lengths: list[int], budget: int, context: int
) -> None:
    windows = plan_windows(lengths, budget, context)
    scored = [step for window in windows for step in range(window.scored, window.end)]
    assert scored == sorted(set(scored))
    for window in windows:
        used = sum(lengths[window.first : window.end])
        assert used <= budget
        assert window.scored == 0 or window.first < window.scored  # never without the one before
        assert window.first == 0 or used + lengths[window.first - 1] > budget  # no room is left unused
        before = sum(lengths[window.first : window.scored])
        alone = before + lengths[window.scored]
        assert window.first == 0 or before >= context or alone + lengths[window.first - 1] > budget
    for step in set(range(len(lengths))) - set(scored):
        assert lengths[step] + (lengths[step - 1] if step else 0) > budget


@pytest.mark.parametrize("name", sorted(CONVENTIONS))
def test_windows_of_a_long_response(name: str) -> None:
    made, tokenizer = convention(name), CharTokenizer()
    steps = tuple(f"{index:02}: " + "x" * (3 + 7 * (index % 4)) for index in range(30))
    case = JudgeCase("Why?", steps)
    capacity = len(made.render("Why?", steps[:6]).token_ids)
    inputs = window_inputs(made, [JudgeCase("Why?", ("one",)), case], capacity, 20)
    assert inputs[0].is_whole
    assert inputs[0].case == 0
    scored = [step for part in inputs[1:] for step in range(part.window.scored, part.window.end)]
    assert scored == list(range(30))
    for part in inputs[1:]:
        assert len(part.rendered.token_ids) <= capacity
        text = tokenizer.show(part.rendered.token_ids)
        assert [step in text for step in steps] == [part.window.first <= k < part.window.end for k in range(30)]
        assert "Why?" in text
    # Each step gets the score of its own window; with the window's number as score that is its window.
    numbered = [[index / 100] * len(part.rendered.positions) for index, part in enumerate(inputs)]
    judged = to_judgements([JudgeCase("Why?", ("one",)), case], inputs, numbered)[1]
    windows = [index for index, part in enumerate(inputs) for _ in range(part.window.scored, part.window.end) if index]
    assert [one.score for one in judged] == [index / 100 for index in windows]
    assert judged[-1].raw == f"steps {inputs[-1].window.first}-29 in view"
    assert len({part.window for part in inputs[1:]}) > 3


def test_a_problem_longer_than_the_context_refuses_all() -> None:
    case = JudgeCase("x" * 500, ("a", "b"))
    for name in CONVENTIONS:
        assert window_inputs(convention(name), [case, JudgeCase("p", ()), JudgeCase("x" * 500, ("a",))], 200, 20) == []
    assert to_judgements([case], [], []) == ((REFUSED, REFUSED),)


# --- scores ----------------------------------------------------------------------------------------------------------


def test_another_number_of_scores_is_an_error() -> None:
    case = JudgeCase("p", ("a", "b"))
    part = WindowInput(0, Window(0, 0, 2), Rendered((1, 2, 3), (1, 2)), is_whole=True)
    assert [one.score for one in to_judgements([case], [part], [[0.25, 0.75]])[0]] == [0.25, 0.75]
    for scores in ([0.5], [0.5] * 3):
        with pytest.raises(EngineError, match=f"{len(scores)} scores for 2 steps"):
            to_judgements([case], [part], [scores])


def test_a_score_is_a_number_from_0_to_1() -> None:
    assert [judgement(score).score for score in (0.0, 0.3, 1.0)] == [0.0, 0.3, 1.0]
    for score in (float("nan"), float("inf"), -0.001, 1.001):
        assert judgement(score) == Judgement(VerdictStatus.UNPARSABLE, raw=str(score))


def test_the_step_right_before_is_in_view_even_where_no_context_is_asked_for() -> None:
    windows = plan_windows([4, 4, 4, 4], 8, 0)
    assert windows == [Window(0, 0, 2), Window(1, 2, 3), Window(2, 3, 4)]
