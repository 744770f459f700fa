"""engines/tokenizer_check.py: bad tokenizers and chat templates are named before an engine starts."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.config.embedded import resolve_asset
from bcpg_cluster.config.load import load_config
from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import ConfigError, DataError
from bcpg_cluster.run.preflight.models import check_tokenizers, tokenizer_checks
from bcpg_cluster.run.preflight.prompts import read_all_prompts
from bcpg_cluster.stages.generate.tokenizer_check import TokenizerCheck, check_tokenizer
from bcpg_cluster.stages.generate.tokenizer_check import check_tokenizers as check_all

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
R1_TEMPLATE = TEMPLATE.replace("<assistant>{% endif", "<assistant><think>\n{% endif")
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + TEMPLATE
CHECK = TokenizerCheck("policy.model", "policy", "a-model", ("What is 12 + 7?", "naïve\n\n  Δx 🙂 <x>"))


@pytest.fixture(scope="module")
def make_tokenizer() -> Callable[..., Any]:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def make(template: str | None = TEMPLATE, normalizer: Any = None) -> Any:
        """Bytes are its tokens."""
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        backend = Tokenizer(models.BPE({piece: index for index, piece in enumerate(alphabet)}, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        if normalizer is not None:
            backend.normalizer = getattr(normalizers, normalizer)()
        made = PreTrainedTokenizerFast(tokenizer_object=backend)
        made.chat_template = template
        return made

    return make


def test_a_good_tokenizer(make_tokenizer: Callable[..., Any]) -> None:
    check_tokenizer(make_tokenizer(), CHECK)
    check_tokenizer(make_tokenizer(), replace(CHECK, system="Be brief."))
    # a composed accent is the same text; many models' tokenizers compose
    check_tokenizer(make_tokenizer(normalizer="NFC"), replace(CHECK, texts=("nai\u0308ve", "x")))


@pytest.mark.parametrize(
    ("template", "change", "problem"),
    [
        (None, {}, "a-model has no chat template"),
        ("{{ messages[0].content", {}, "the chat template of a-model fails on a user message"),
        (
            "{{ raise_exception('alternate, please') }}",
            {},
            r"fails on a user message \('What is 12 \+ 7\?'\): alternate",
        ),
        (NO_SYSTEM, {"system": "Judge."}, "fails on a system and user message .*no system role"),
        ("<assistant>", {}, "renders every problem as '<assistant>'"),
    ],
)
def test_templates_that_fail(
    make_tokenizer: Callable[..., Any], template: str | None, change: dict[str, Any], problem: str
) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        check_tokenizer(make_tokenizer(template), replace(CHECK, **change))
    assert caught.value.problem.startswith("policy.model: ")
    assert ("without a system message" in caught.value.remedy) == bool(change)


def test_tokenizers_that_lose_text(make_tokenizer: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match=r"changes a problem's text: 'What is 12 \+ 7\?' comes back as 'what"):
        check_tokenizer(make_tokenizer(normalizer="Lowercase"), CHECK)
    with pytest.raises(DataError, match=r"'ïve.*comes back as 'ive"):
        check_tokenizer(make_tokenizer(normalizer="StripAccents"), replace(CHECK, texts=("nai\u0308ve",)))


def test_a_prompt_that_opens_thinking_must_be_known(make_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_tokenizer(R1_TEMPLATE)
    with pytest.raises(ConfigError, match="ends its prompts with <think>") as caught:
        check_tokenizer(tokenizer, replace(CHECK, opens_thinking=False))
    assert "verify.prompt_opens_thinking: true" in caught.value.remedy
    for known in (True, None):
        check_tokenizer(tokenizer, replace(CHECK, opens_thinking=known))
    check_tokenizer(make_tokenizer(), replace(CHECK, opens_thinking=False))


def test_a_tokenizer_that_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="gives no tokenizer"):
        check_all([replace(CHECK, model=str(tmp_path))])


def test_code_of_a_model_runs_only_when_it_is_trusted(make_tokenizer: Callable[..., Any], tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "own.OwnTokenizer"]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text('{"model_type": "own"}')
    (tmp_path / "own.py").write_text(
        "import pathlib\nfrom transformers import PreTrainedTokenizerFast\n"
        f"pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n"
        "class OwnTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    check = replace(CHECK, model=str(tmp_path), key="judges.j.model", section="judges.j")
    with pytest.raises(DataError) as caught:
        check_all([check])
    assert "judges.j.trust_remote_code: true" in caught.value.remedy
    assert not (tmp_path / "ran").exists()
    check_all([replace(check, trust_remote_code=True)])
    assert (tmp_path / "ran").exists()


def test_what_a_run_looks_at(make_config: Callable[..., Config]) -> None:
    embedded = {"kind": "vllm", "model": "embedded:chain/policy", "revision": "main"}
    judges = {
        "a": {"kind": "llm", "model": "embedded:chain/judge", "trust_remote_code": True},
        "b": {"kind": "prm", "model": "embedded:chain/prm"},
        "c": {"kind": "fake"},
    }
    config = make_config(policy=embedded, judges=judges, verify={"kind": "math"})
    prompts = read_all_prompts(config)
    policy, judge = tokenizer_checks(config, prompts)
    assert (policy.key, policy.model) == ("policy.model", resolve_asset("embedded:chain/policy"))
    assert (policy.revision, policy.trust_remote_code, policy.opens_thinking) == ("main", False, False)
    assert set(policy.texts) == {prompt.question for prompt in [*prompts.train, *prompts.test]}
    assert (judge.key, judge.section, judge.trust_remote_code) == ("judges.a.model", "judges.a", True)
    assert judge.system
    assert tokenizer_checks(make_config(), prompts) == [], "fakes have no tokenizer"
    check_tokenizers(make_config(), prompts)


def test_the_shipped_default_passes_in_a_process_of_its_own(tmp_path: Path) -> None:
    config = load_config("laptop", ["prompts.limit=40", "prompts.per_round=8"])
    had_it = "transformers" in sys.modules
    check_tokenizers(config, read_all_prompts(config))
    assert ("transformers" in sys.modules) == had_it
    odd = [{"prompt_id": f"o{k}", "question": f"27 +{k}ß", "answer": "1"} for k in range(600)]
    (tmp_path / "odd.jsonl").write_text("\n".join(map(json.dumps, odd)))
    lossy = load_config("laptop", [f"prompts.train={tmp_path / 'odd.jsonl'}"])
    with pytest.raises(DataError, match=r"policy\.model: .*changes a problem's text"):
        check_tokenizers(lossy, read_all_prompts(lossy))
