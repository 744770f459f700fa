"""engines/sat_splitter.py: what is asked of Segment Any Text, and what is done with what it answers.

The weights are not needed: a stub has ``split`` as wtpsplit spells it, and where wtpsplit-lite is installed its own code runs with
probabilities made up by the test.
"""

from __future__ import annotations

import inspect
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bcpg_cluster.errors import ConfigError, EngineError
from bcpg_cluster.records import Step
from bcpg_cluster.stages.segment import sat as sat_splitter
from bcpg_cluster.stages.segment.merge import MergeRules
from bcpg_cluster.stages.segment.sat import SatSegmenter, check_sat_model, load_sat


def sentences(text: str) -> list[str]:
    """Cut after a full stop and its space."""
    return [piece for piece in re.split(r"(?<=\. )", text) if piece]


class Wtpsplit:
    """``SaT.split`` with the signature of wtpsplit 2.2."""

    def __init__(self, answer: Callable[[str], Any] = sentences) -> None:
        self.answer = answer
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def split(
        self, text_or_texts, threshold=None, stride=64, block_size=512, batch_size=32, pad_last_batch=False,
        weighting="uniform", remove_whitespace_before_inference=False, outer_batch_size=1000, paragraph_threshold=0.5,
        strip_whitespace=False, do_paragraph_segmentation=False, split_on_input_newlines=True, treat_newline_as_space=None,
        verbose=False, min_length=1, max_length=None, prior_type="uniform", prior_kwargs=None, algorithm="viterbi",
    ):  # fmt: skip
        options = dict(locals())
        del options["self"], options["text_or_texts"]
        defaults = {name: p.default for name, p in inspect.signature(self.split).parameters.items()}
        self.asked.append((text_or_texts, {k: v for k, v in options.items() if v != defaults[k] or k == "threshold"}))
        if split_on_input_newlines is False:
            warnings.warn("split_on_input_newlines=False will lead to newlines in the output", stacklevel=2)
        return self.answer(text_or_texts)


class Lite:
    """``SaT.split`` with the signature of wtpsplit-lite 0.2."""

    def __init__(self) -> None:
        self.treated: list[bool] = []

    def split(self, text_or_texts, threshold=None, stride=64, block_size=512, batch_size=32, strip_whitespace=False,
              treat_newline_as_space=True):  # fmt: skip
        self.treated.append(treat_newline_as_space)
        return sentences(text_or_texts)


def cutter(splitter: Any, merge: MergeRules | None = None, **options: Any) -> SatSegmenter:
    return SatSegmenter(splitter, **{"threshold": 0.25, "merge": merge, **options})


@pytest.mark.filterwarnings("error")
def test_the_threshold_is_always_given_and_line_breaks_stay():
    splitter = Wtpsplit()
    assert cutter(splitter).pieces("One.\ntwo. Three") == ["One.\ntwo. ", "Three"]
    text, options = splitter.asked[0]
    assert text == "One.\ntwo. Three"
    assert options == {"threshold": 0.25, "stride": 256, "split_on_input_newlines": False}
    lite = Lite()
    cutter(lite).pieces("a")
    assert lite.treated == [True]


def test_sentences_and_blank_lines_begin_pieces():
    text = "One. Two\nthree\n\nfour. Five"
    steps = cutter(Wtpsplit())(list(text))
    assert [step.text for step in steps] == ["One. ", "Two\nthree\n\n", "four. ", "Five"]
    assert [(step.start, step.end) for step in steps] == [(0, 5), (5, 16), (16, 22), (22, 26)]


def test_sentences_are_merged_into_steps():
    rules = MergeRules(min_tokens=6, target_tokens=20, max_tokens=40)
    text = "One. Two. Wait. Three $a. So b$. So four.</think>Five."
    steps = cutter(Wtpsplit(), rules)(list(text))
    assert [s.text for s in steps] == ["One. Two. ", "Wait. Three $a. So b$. ", "So four.</think>", "Five."]


def test_a_token_of_two_sentences_says_so():
    assert cutter(Wtpsplit())(["One. T", "wo. ", "\U0001f389", ""]) == [
        Step(0, 1, "One. T", True),
        Step(1, 2, "wo. "),
        Step(2, 4, "\U0001f389"),
    ]


@pytest.mark.parametrize("text", ["", " \n\n "])
def test_text_without_visible_characters_asks_no_model(text: str):
    splitter = Wtpsplit()
    assert "".join(cutter(splitter).pieces(text)) == text
    assert len(cutter(splitter)(["", *text])) == 1
    assert splitter.asked == []


def failing(text: str) -> list[str]:
    raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda text: text.split("\n"), "piece 1 is 'two. Three' where the text has '\\ntwo. Thre' (character 4)"),
        (lambda text: [text.strip(" e")], "end at character 13 of 15"),
        (lambda text: [*sentences(text), "more"], "piece 2 is 'more' where the text has ''"),
        (lambda text: [sentences(text)], "gave a list as piece 0"),
        (lambda text: [], "end at character 0 of 15"),
        (failing, "failed on a text of 15 characters: out of memory"),
    ],
)
def test_pieces_that_are_not_the_text_are_an_error(answer: Callable[[str], Any], words: str):
    with pytest.raises(EngineError, match=re.escape(words)):
        cutter(Wtpsplit(answer))(list("One.\ntwo. Three"))


@pytest.mark.parametrize(
    "wrong",
    [{"threshold": 0.0}, {"threshold": 1.0}, {"stride": 0}, {"stride": 513}, {"batch_size": 0}],
)
def test_numbers_that_do_not_hold(wrong: dict[str, Any]):
    with pytest.raises(ConfigError):
        cutter(Wtpsplit(), **wrong)


def test_a_splitter_that_cannot_keep_line_breaks_is_refused():
    class Old:
        def split(self, text_or_texts, threshold=None):
            return [text_or_texts]

    with pytest.raises(ConfigError, match=r"Old\.split has none of"):
        cutter(Old())


def test_one_text_at_a_time():
    inside = threading.Semaphore(1)

    def alone(text: str) -> list[str]:
        assert inside.acquire(blocking=False)
        try:
            return sentences(text)
        finally:
            inside.release()

    segmenter = cutter(Wtpsplit(alone))
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                segmenter(list("One. Two."))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# --- loading


class Sat(Wtpsplit):
    made: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012

    def __init__(self, model: str, **options: Any) -> None:
        super().__init__()
        if model == "broken":
            raise OSError("no such model on the hub")
        self.calls: list[str] = []
        self.made.append((model, options))

    def half(self) -> Sat:
        self.calls.append("half")
        return self

    def to(self, device: str) -> Sat:
        self.calls.append(device)
        return self


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Which packages are installed; their class is :class:`Sat`."""
    packages = {"wtpsplit", "wtpsplit_lite"}

    def find_spec(name: str, package: str | None = None) -> object | None:
        return object() if name in packages else None

    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    for name in packages:
        module = ModuleType(name)
        module.SaT = type(name, (Sat,), {})  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    Sat.made.clear()
    yield packages
    Sat.made.clear()


def model_directory(path: Path, *files: str) -> str:
    path.mkdir()
    for name in files:
        (path / name).touch()
    return str(path)


def test_models_of_the_hub(installed: set[str]):
    splitter = load_sat("sat-3l-sm", tokenizer="facebookAI/xlm-roberta-base")
    assert type(splitter).__name__ == "wtpsplit"
    load_sat("someone/sat-mine")
    assert Sat.made == [
        ("sat-3l-sm", {"hub_prefix": "segment-any-text", "tokenizer_name_or_path": "facebookAI/xlm-roberta-base"}),
        ("someone/sat-mine", {"hub_prefix": None}),
    ]


def test_a_local_directory_brings_its_own_tokenizer(installed: set[str], tmp_path: Path):
    model = model_directory(tmp_path / "m", "model_optimized.onnx", "config.json", "tokenizer.json")
    load_sat(model, providers=["CPUExecutionProvider"])
    expected = {"ort_providers": ["CPUExecutionProvider"], "hub_prefix": None, "tokenizer_name_or_path": model}
    assert Sat.made == [(model, expected)]


def test_the_lite_package_serves_where_the_other_is_not_installed_or_not_wanted(installed: set[str]):
    assert type(load_sat("sat-3l-sm", backend="wtpsplit-lite")).__name__ == "wtpsplit_lite"
    installed.remove("wtpsplit")
    assert type(load_sat("sat-3l-sm")).__name__ == "wtpsplit_lite"
    with pytest.raises(ConfigError, match="wtpsplit is not installed"):
        load_sat("sat-3l-sm", backend="wtpsplit")
    installed.clear()
    with pytest.raises(ConfigError, match=r"wtpsplit and wtpsplit-lite are not installed[\s\S]*\[sat\]"):
        check_sat_model("sat-3l-sm")


def test_devices(installed: set[str]):
    splitter: Any = load_sat("sat-3l-sm", device="cuda")
    assert splitter.calls == ["half", "cuda"]
    splitter = load_sat("sat-3l-sm", device="cpu")
    assert splitter.calls == ["cpu"]  # half precision is slow there


def test_incomplete_directories_and_wrong_paths(installed: set[str], tmp_path: Path):
    torch_only = model_directory(tmp_path / "t", "model.safetensors", "config.json")
    check_sat_model(torch_only)
    with pytest.raises(
        ConfigError,
        match=r"has no model_optimized\.onnx\n",
    ) as caught:
        check_sat_model(torch_only, backend="wtpsplit-lite")
    assert "in ONNX form" in caught.value.rule
    with pytest.raises(ConfigError, match=r"no model_optimized\.onnx"):
        load_sat(torch_only, providers=["CPUExecutionProvider"])
    empty = model_directory(tmp_path / "e")
    with pytest.raises(ConfigError, match=r"has no model_optimized.onnx or [\s\S]*, no config\.json"):
        check_sat_model(empty)
    with pytest.raises(ConfigError, match="is not a directory"):
        check_sat_model(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="does not exist"):
        check_sat_model("sat-3l-sm", str(tmp_path / "nothing"))
    assert Sat.made == []


def test_what_cannot_be_loaded(installed: set[str]):
    with pytest.raises(ConfigError, match="wtpsplit cannot load 'broken': OSError: no such model on the hub"):
        load_sat("broken")


# --- the real packages


def real_class(package: str) -> Any:
    pytest.importorskip(sat_splitter._MODULES[package])
    return sat_splitter._sat_class(package)


@pytest.mark.parametrize("package", ["wtpsplit", "wtpsplit-lite"])
def test_every_option_we_pass_is_one_of_the_package(package: str):
    sat = real_class(package)
    known = inspect.signature(sat.split).parameters
    options = cutter(sat.__new__(sat))._options
    assert set(options) <= set(known)
    assert {"threshold", "strip_whitespace"} <= set(options)
    assert len({"split_on_input_newlines", "treat_newline_as_space"} & set(options)) == 1
    made_with = inspect.signature(sat).parameters
    assert {"tokenizer_name_or_path", "ort_providers", "hub_prefix"} <= set(made_with)


@pytest.mark.skipif("not __import__('importlib.util').util.find_spec('wtpsplit_lite')", reason="needs wtpsplit-lite")
@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("a. \n\r\t\u00e9\u3002\u2028\U0001f389"), max_size=40), st.data())
def test_the_packages_own_splitting_keeps_the_text(text: str, data: st.DataObject):
    import numpy as np

    base = real_class("wtpsplit-lite")
    chances = data.draw(st.lists(st.sampled_from([0.0, 0.2, 0.3, 0.9]), min_size=len(text), max_size=len(text)))

    class MadeUp(base):
        """The package's class with its network left out: a chance for every character."""

        def __init__(self) -> None:
            self.model_name_or_model, self.use_lora = "made-up", False

        def predict_proba(self, texts: list[str], **_: Any) -> Iterator[Any]:
            yield np.array(chances)

    pieces = cutter(MadeUp()).pieces(text)
    assert "".join(pieces) == text
    if text.strip():  # the threshold of the test, not the package's own, and white space goes with the piece before it
        after = (text[at + 1 :] for at, chance in enumerate(chances) if chance > 0.25)
        begins = {len(text) - len(rest.lstrip()) for rest in after}
        assert set(accumulate(map(len, pieces))) == begins | {len(text)}
