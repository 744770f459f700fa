"""Write the generated pages: ``docs/config.md`` from the config's sections, ``docs/records.md`` from tables and records, the table
in ``docs/metrics.md`` and the Grafana dashboard (an asset) from the catalog of metrics.

    python scripts/make_docs.py              # all of them; tests/architecture/test_docs.py checks that they are up to date
    python scripts/make_docs.py --walk RUN   # also the walk of one sample in docs/overview.md, from the rows of a real run

Descriptions come from docstrings. Where a config section's docstring says nothing of a key, ``MEANINGS`` below does (for the
objectives ``OBJECTIVE_MEANINGS``); a key without either is an error, so no key stays undocumented.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import re
import sys
import textwrap
import types
import typing
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bcpg_cluster import records
from bcpg_cluster.config import run as config
from bcpg_cluster.stages.train import objective
from bcpg_cluster.stages.train import protocol as train_protocol
from bcpg_cluster.store import layout, schema
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.shards import read_table
from bcpg_cluster.watch.prometheus import catalog, grafana

ROOT = Path(__file__).resolve().parent.parent
DOCS, ASSETS = ROOT / "docs", ROOT / "bcpg_cluster" / "assets"
HEAD = "<!-- Made by scripts/make_docs.py. Change the docstrings it reads, then run it again. -->"

# What the sections' docstrings do not say (they say most in prose; a table needs a line for every key).
MEANINGS = {
    "name": "names the run: its directory is `runs/<name>`, its Ray namespace follows the directory",
    "seed": "of everything random: prompt order, sampling seeds, shuffles in training",
    "policy.model": "`embedded:NAME`, a directory in Hugging Face format, or a hub id",
    "policy.kind": "`vllm`; `fake` draws from a table, for tests",
    "policy.engine_args": "vLLM's own options, passed through untouched and checked by vLLM's parser",
    "prompts.train": "JSON lines with `prompt_id`, `question`, `answer`; `embedded:prompts/train.jsonl` or a path",
    "prompts.test": "the held-out file; no question may also be in `train`",
    "prompts.per_round": "prompts of one round",
    "prompts.order": "`stated`: the file's own order; `shuffled`: a permutation by the run's seed",
    "prompts.more_tests": "further test files by name, measured and reported every round beside `test`",
    "generate.group_size": "G, responses per prompt",
    "generate.temperature": "sampling temperature of the behaviour policy",
    "prompts.columns": "which column of a data set is what; `null`: a prompt file, or columns `question` and `answer`",
    "prompts.train_split": "split of a data set to train on",
    "prompts.test_split": "split of a data set to measure on",
    "prompts.config_name": "a data set's configuration on the hub",
    "prompts.revision": "a data set's revision on the hub",
    "prompts.generated": "for `task:reasoning_gym/NAME`: sizes, seeds and the generators' own parameters; `null`: the defaults",
    "prompts.limit": "the first so many problems of each file; `null` is all",
    "generate.top_p": "nucleus sampling; 1 is off",
    "generate.top_k": "0 is off",
    "generate.max_tokens": "most response tokens; a response that reaches it counts as truncated",
    "generate.prompts_per_shard": "prompts of one shard, the unit of work; groups are never split",
    "generate.seed_per_request": "every sample reproducible by itself; on GPUs it switches off vLLM's fast sampler",
    "verify.answer_pattern": "`exact` only: a regular expression with one group, the answer",
    "verify.numeric": "`exact` only: compare numbers by value",
    "verify.time_limit_s": "`math` only: for one comparison; past it the sample has no reward",
    "segment.split_on": "`line`: each line begins a step; `paragraph`: each line after a blank one",
    "segment.cues": "reflection words that begin a step; `null` is the built-in list, `[]` none",
    "segment.min_tokens": "shorter steps are merged with a neighbour; 1 is off",
    "segment.max_tokens": "longer steps are cut at a line, sentence or word; 0 is off",
    "judges.<name>.kind": "`llm`, `openai` (an endpoint), `prm`, `chain_truth` (the embedded task's own truth) or `fake` (tests)",
    "judges.<name>.model": "needed for `llm`, `openai` and `prm`; as `policy.model`, or the endpoint's name of it",
    "judges.<name>.engine_args": "as `policy.engine_args`, for this judge's engine",
    "judges.<name>.precision": "`fake` only: of the steps it calls right, the share that is",
    "judges.<name>.recall": "`fake` only: of the right steps, the share it calls so",
    "weigh.beta": "beta of Eq. 7, the weight of mined tokens; 1 is plain BCPG, 0 removes their penalty",
    "weigh.min_verified_share": "a group with a smaller share of verified samples is dropped whole",
    "objective": "the loss and its options, chosen by `name`; without one it is `bcpg`. See [Objectives](#objectives)",
    "train.kind": "`deepspeed`; `torch` is the one-process reference; `fake` is for tests",
    "train.learning_rate": "peak of the cosine schedule",
    "train.min_learning_rate": "its last value",
    "train.warmup_ratio": "share of the steps that warm up linearly, rounded up",
    "train.weight_decay": "AdamW's",
    "train.adam_betas": "AdamW's",
    "train.grad_clip": "largest norm of the whole gradient",
    "train.epochs": "passes over the round's rows; each is shuffled anew",
    "train.early_stop_window": "steps that `early_stop_nats` looks back over",
    "train.zero_stage": "DeepSpeed's ZeRO stage; `bfloat16` needs at least 1",
    "train.dtype": "compute dtype; master weights, log-softmax and sums are float32 either way",
    "train.gradient_checkpointing": "trade compute for memory in long sequences",
    "train.lora": "`null` trains all weights; a section, `{}` even, trains adapters",
    "train.group_timeout_s": "how long one collective of the trainer group may take",
    "push.backend": "`gloo`: this project's own, for CPUs; `nccl`: vLLM's own, for GPUs; `disk`: engines reload the snapshot",
    "push.num_canaries": "responses whose log-probs prove a push",
    "evaluate.num_prompts": "the first so many test prompts; `null` is all",
    "evaluate.num_samples": "n of avg@n, and the largest k of pass@k",
    "evaluate.temperature": "of the sampled responses",
    "evaluate.top_p": "of the sampled responses",
    "evaluate.greedy": "also one greedy response per prompt",
    "evaluate.max_tokens": "`null` takes `generate.max_tokens`",
    "evaluate.prompts_per_shard": "as `generate.prompts_per_shard`",
    "pools.<name>.min": "lower bound of resizing; `null` is `members`",
    "pools.<name>.max": "upper bound of resizing; `null` is `members`",
    "pools.<name>.num_cpus": "Ray's CPUs of one member (bookkeeping, not a limit on threads: see `env`)",
    "pools.<name>.num_gpus": "Ray's GPUs of one member",
    "pools.<name>.start_timeout_s": "a member that is not ready by then is replaced",
    "snapshots.keep_last": "newest snapshots whose files are kept, beside the base and the best",
}  # fmt: skip

# Options that several objectives share, and those whose docstrings refer the reader elsewhere.
OBJECTIVE_MEANINGS = {
    "length": "what a response's sum over tokens is scaled by: `sequence`, one over its own length (the paper); `token`, one over "
    "the response tokens of the whole step; `constant`, one over `constant_tokens`",
    "constant_tokens": "`length: constant` only, and needed there: at least 1, `generate.max_tokens` for instance",
    "rft.length": "`token`: mean over the step's tokens; `sequence`: mean over its responses of their means",
    "dpo.beta": "beta_DPO, above 0; 0.5 in the BCPG-NSA paper",
    "grpo.epsilon_low": "the ratio is clipped at 1 minus this; above 0, at most 1",
    "grpo.epsilon_high": "and at 1 plus this; above 0",
    "kto.beta": "temperature of the sigmoid, above 0",
    "kto.right_weight": "of right responses, >= 0",
    "kto.wrong_weight": "of wrong responses, >= 0",
}  # fmt: skip

MAY_CHANGE = ("name", "snapshots.keep_last", "push.deadline_s", "train.checkpoint_every_steps", "train.group_timeout_s")


# --- docstrings ----------------------------------------------------------------------------------------------------


def attributes(doc: str | None) -> dict[str, str]:
    """The ``Attributes:`` block of a Google-style docstring, by name; ``a, b: text`` describes both."""
    match = re.search(r"^Attributes:\n((?:[ \t]+.*\n?|\n)+)", inspect.cleandoc(doc or ""), re.MULTILINE)
    found: dict[str, str] = {}
    names: list[str] = []
    for line in textwrap.dedent(match.group(1)).splitlines() if match else ():
        head = re.match(r"(\w+(?:, \w+)*): (.*)", line)
        if head:
            names = head.group(1).split(", ")
            found.update(dict.fromkeys(names, head.group(2)))
        elif line.strip():
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
    return {name: as_markdown(text) for name, text in found.items()}


def prose(doc: str | None) -> str:
    """A docstring without its ``Attributes:`` and ``Raises:`` blocks, as one paragraph a paragraph."""
    text = re.split(r"^(?:Attributes|Raises|Args):\n", inspect.cleandoc(doc or ""), flags=re.MULTILINE)[0]
    paragraphs = [" ".join(part.split()) for part in text.strip().split("\n\n")]
    return as_markdown("\n\n".join(paragraphs)).replace("`None`", "null")


def as_markdown(text: str) -> str:
    """Double backticks to single, cross references to plain code."""
    text = re.sub(r":\w+:`~?([^`]+)`", lambda match: f"`{match.group(1).rpartition('.')[2]}`", text)
    return text.replace("``", "`").rstrip()


def cell(text: str) -> str:
    """Text that may stand in a table; a lone sentence loses its full stop, as most cells are no sentences."""
    text = text.replace("|", "\\|").replace("\n", " ").replace("`None`", "null")
    return text.removesuffix(".") if ". " not in text else text


# --- config.md -----------------------------------------------------------------------------------------------------


def config_page() -> str:
    """Every key of the configuration."""
    parts = [
        HEAD,
        "# Every config key",
        "A config is a YAML file with these sections. Unknown keys are errors. `--set section.key=value` overrides one key from "
        "the command line. Keys marked † may change between two starts of the same run; any other change makes it another run, "
        "which needs another directory. (The number of trainer ranks, `pools.trainer.members`, decides the results' last bits "
        "and is fixed too.)",
        "How to choose values, and what happens when something fails, is in [operate.md](operate.md).",
    ]
    top = [
        (name, name, info) for name, info in config.Config.model_fields.items() if section_of(info.annotation) is None
    ]
    parts += ["## Top level", prose("A whole run."), key_table(top, config.Config)]
    for name, info in config.Config.model_fields.items():
        section = section_of(info.annotation)
        if name == "objective":
            parts += objectives()
        if section is None:
            continue
        prefix = f"{name}.<name>" if typing.get_origin(info.annotation) is dict else name
        keys = [(key, f"{prefix}.{key}", field) for key, field in section.model_fields.items()]
        note = " A section for each judge, by a name of your choice." if name == "judges" else ""
        if name == "pools":
            note = (
                " A section for each pool that should differ from the defaults: `rollout`, `judge.<name>` (`prm` for a judge of "
                "that name), `cpu`, `trainer`."
            )
        parts += [f"## `{prefix}`", prose(section.__doc__) + note, key_table(keys, section)]
        for key, field in section.model_fields.items():
            inner = section_of(field.annotation)
            if inner is not None:
                inner_keys = [(k, f"{prefix}.{key}.{k}", f) for k, f in inner.model_fields.items()]
                parts += [f"### `{prefix}.{key}`", prose(inner.__doc__), key_table(inner_keys, inner)]
    return "\n\n".join(parts) + "\n"


def objectives() -> list[str]:
    """What ``objective`` may hold: a table of options for each name."""
    parts = [
        "## Objectives",
        "The section `objective` takes `name` and the options of that name, no others. Switching it from the command line takes "
        'the whole section: `--set "objective={name: dpo, beta: 0.1}"`. What each one trains on:',
    ]
    rows = {
        "all": "every kept sample",
        "right": "right responses (or wrong ones: `on`)",
        "wrong": "wrong responses",
        "pairs": "pairs of a right and a wrong response to one prompt",
        "mismatched": "every kept sample, with another prompt's response beside it",
    }
    lines = ["| name | trains on |", "|---|---|"]
    lines += [f"| [`{name}`](#objective-{name}) | {rows[kind().rows]} |" for name, kind in objective.OBJECTIVES.items()]
    parts.append("\n".join(lines))
    for name, kind in objective.OBJECTIVES.items():
        parts += [f"### objective `{name}`", prose(kind.__doc__), option_table(name, kind)]
    return parts


def option_table(name: str, kind: type[objective.Objective]) -> str:
    """The options of an objective as a table; bounds are in the descriptions."""
    described = attributes(kind.__doc__)
    hints = typing.get_type_hints(kind)
    lines = ["| option | kind | default | meaning |", "|---|---|---|---|"]
    shared = ("length", "constant_tokens")  # last: what is an objective's own comes first
    for field in sorted(dataclasses.fields(kind), key=lambda field: field.name in shared):
        if field.name == "name":
            continue
        meaning = OBJECTIVE_MEANINGS.get(f"{name}.{field.name}") or OBJECTIVE_MEANINGS.get(field.name)
        meaning = meaning or described.get(field.name)
        if meaning is None:
            sys.exit(f"objective {name}: neither its docstring nor OBJECTIVE_MEANINGS describes {field.name}")
        default = yaml_of(field.default)
        lines.append(f"| `{field.name}` | {cell(type_name(hints[field.name]))} | {cell(default)} | {cell(meaning)} |")
    return "\n".join(lines)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section class behind an annotation, also inside ``dict[str, Section]``."""
    for kind in (annotation, *typing.get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def key_table(keys: list[tuple[str, str, FieldInfo]], section: type[BaseModel]) -> str:
    """The keys of a section as a table."""
    described = attributes(section.__doc__)
    if section is config.TrainConfig:
        described = {**attributes(train_protocol.TrainSettings.__doc__), **described}
    lines = ["| key | kind | default | meaning |", "|---|---|---|---|"]
    for key, path, info in keys:
        meaning = MEANINGS.get(path) or described.get(key)
        if meaning is None:
            sys.exit(f"{path}: neither the section's docstring nor MEANINGS describes it")
        mark = " †" if may_change(path) else ""
        lines.append(f"| `{key}`{mark} | {cell(kind_of(info))} | {cell(default_of(info))} | {cell(meaning)} |")
    return "\n".join(lines)


def may_change(path: str) -> bool:
    """Whether ``Config.identity`` leaves the key out (``test_docs`` tries every one of them)."""
    return path in MAY_CHANGE or path.startswith(("pools.", "tracking."))


def kind_of(info: FieldInfo) -> str:
    """The type with its bounds, as a person would write it."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    if dataclasses.is_dataclass(info.get_default(call_default_factory=True)):
        return "section"
    bounds = [
        f"{signs[sign]} {value:g}"
        for limit in info.metadata
        for sign in signs
        if (value := getattr(limit, sign, None)) is not None
    ]
    pattern = [f"matches `{limit.pattern}`" for limit in info.metadata if getattr(limit, "pattern", None)]
    return ", ".join([type_name(info.annotation), *bounds, *pattern])


def type_name(annotation: Any) -> str:
    """``int``, ``"a" or "b"``, ``list of text`` and so on."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if kind is type(None) else type_name(kind) for kind in arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"list of {type_name(arguments[0])}"
        return f"list of {len(arguments)} {type_name(arguments[0])}s"
    if origin is dict:
        return "mapping" if arguments[1] is Any else f"mapping to {type_name(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return {str: "text", int: "integer", float: "number", bool: "true or false"}.get(annotation, str(annotation))


def default_of(info: FieldInfo) -> str:
    """The default as YAML; ``required`` where there is none."""
    if info.is_required():
        return "required"
    return yaml_of(info.get_default(call_default_factory=True))


def yaml_of(value: Any) -> str:
    """A default as YAML; an objective by its name."""
    if value is None:
        return "`null`"
    if dataclasses.is_dataclass(value):
        value = value.name
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, str):
        return f"`{value}`" if value else "empty"
    return f"`{json.dumps(value)}`" if isinstance(value, (list, dict, bool)) else f"`{value:g}`"


# --- records.md ----------------------------------------------------------------------------------------------------

ABOUT_ID = {
    "round": "the round, from 1 (in evaluation tables the policy version, from 0)",
    "prompt_id": "the prompt, unique in its file",
    "sample": "counts the responses to a prompt from 0; -1 is the greedy one of an evaluation",
    "rival_prompt_id": "prompt of the row's second response, its rival (the wrong one of a pair, or the one KTO's drift is "
    "estimated from); null where the objective takes none",
    "rival_sample": "its number",
}
ABOUT_OTHERS = {
    "rollouts": {
        "token_ids": "the response's own ids, end token included when it was emitted; never re-tokenised",
        "stop_reason": "a `StopReason`",
    },
    "outcomes": {
        "status": "an `OutcomeStatus`",
        "reward": "0 or 1; null when there is none (see status)",
        "extracted": "the answer that was found; null when there is none",
    },
    "steps": {
        "step": "counts the steps of a response from 0",
        "start": "first token of the step",
        "end": "one past its last token",
        "text": "the step's text; the texts join to the response",
        "shares_last_token": "the last token also holds visible text of the next step",
    },
    "verdicts": {
        "step": "counts the steps of a response from 0",
        "judge": "the judge's name in the config",
        "judge_version": "names model, prompt and settings: the same version gives the same verdicts",
        "status": "a `VerdictStatus`",
        "error_type": "an `ErrorType`; null for a judge that scores, or when there is no verdict",
    },
    "weighted": {
        "prompt_token_ids": "the templated prompt, generation prompt included",
        "token_ids": "the response's ids",
        "reward": "0 or 1",
        "group_mean": "mean reward of the group's verified samples (less the truncated, where those are dropped)",
        "group_size": "how many those are",
        "rival_token_ids": "its ids; scored after the row's own prompt",
    },
    "reference": {
        "reference_logprobs": "lp_ref per response token, nats, by the trainer's own forward",
        "rival_reference_logprobs": "the same of the rival, after the row's own prompt; null without one",
    },
}  # fmt: skip
RECORD_OF = {
    "prompts": records.Prompt,
    "rollouts": records.Rollout,
    "outcomes": records.Outcome,
    "steps": records.Step,
    "verdicts": records.Verdict,
    "weighted": train_protocol.TrainRow,
}


def records_page() -> str:
    """Every table, its columns, and the words in it."""
    overview = re.search(r"^\| table .*?(?=\n\n|\Z)", inspect.cleandoc(schema.__doc__ or ""), re.DOTALL | re.MULTILINE)
    if overview is None:
        sys.exit("store/schema.py: its docstring has no table of tables")
    tree = re.search(r"::\n\n(.*)", inspect.cleandoc(layout.__doc__ or ""), re.DOTALL)
    parts = [
        HEAD,
        "# Tables and records",
        f"Schema version {schema.SCHEMA_VERSION}. Tables are Parquet files in the run directory. A file counts only when the "
        "manifest says so; read them through `bcpg_cluster.store.shards.read_table` with the manifest's receipts, or with any "
        "Parquet reader if stray files of lost attempts do not matter to you.",
        "```text\n" + textwrap.dedent(tree.group(1) if tree else "") + "\n```",
        as_markdown(overview.group(0)),
    ]
    names = {name: name.removeprefix("eval_") for name in schema.SCHEMAS} | {"verdicts.<judge>": "verdicts"}
    for kind in dict.fromkeys([*RECORD_OF, *names.values()]):
        tables = [table for table, of_kind in names.items() if of_kind == kind]
        titles = ", ".join(f"`{table}`" for table in tables)
        record = RECORD_OF.get(kind)
        about = {**ABOUT_ID, **attributes(record.__doc__ if record else ""), **ABOUT_OTHERS.get(kind, {})}
        lines = ["| column | type | meaning |", "|---|---|---|"]
        for field in schema.schema_of(tables[0]):
            if field.name not in about:
                sys.exit(f"{tables[0]}.{field.name}: no docstring describes it")
            lines.append(f"| `{field.name}` | {column_type(field.type)} | {cell(about[field.name])} |")
        parts += [f"## {titles}", "\n".join(lines)]
    parts.append("## Statuses and reasons")
    for enum in (
        records.StopReason,
        records.OutcomeStatus,
        records.VerdictStatus,
        records.ErrorType,
        records.DropReason,
    ):
        parts += [f"### `{enum.__name__}`", prose(enum.__doc__), enum_list(enum)]
    lines = ["| field | meaning |", "|---|---|"]
    about = attributes(records.Receipt.__doc__) | {
        "table": "the table the shard belongs to",
        "round": "its round",
        "shard": "its number",
        "num_rows": "rows of the file",
        "num_bytes": "its size",
        "checksum": "sha256 of the file; checked whenever it is read",
    }
    lines += [f"| `{name}` | {cell(about[name])} |" for name in records.Receipt.__dataclass_fields__]
    parts += ["## `Receipt`", prose(records.Receipt.__doc__), "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def column_type(kind: Any) -> str:
    """``list<element: int32>`` as ``list of int32``."""
    match = re.fullmatch(r"list<\w+: (\w+)>", str(kind))
    return f"list of {match.group(1)}" if match else str(kind)


def enum_list(enum: type[Enum]) -> str:
    """The members with the comments that stand beside them in the source."""
    comments = dict(re.findall(r'^\s+\w+ = "([^"]+)"(?:  # (.*))?$', inspect.getsource(enum), re.MULTILINE))
    return "\n".join(
        f"- `{member.value}`" + (f": {comments[member.value]}" if comments.get(member.value) else "") for member in enum
    )


# --- metrics.md and the Grafana dashboard --------------------------------------------------------------------------

METRICS_TABLE = re.compile(r"(<!-- table: .*?-->\n).*?(<!-- end of table -->)", re.DOTALL)


def metrics_page() -> str:
    """The page as it stands, with the table of all metrics made anew."""
    lines = ["| metric, as Prometheus sees it | kind | unit | tags | meaning |", "|---|---|---|---|---|"]
    for metric in catalog.METRICS:
        unit = "share" if metric.unit == "1" else metric.unit
        tags = ", ".join(f"`{tag}`" for tag in metric.tags)
        lines.append(f"| `{metric.series}` | {metric.kind} | {unit} | {tags} | {cell(metric.meaning)} |")
    table = "\n".join(lines) + "\n"
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    return METRICS_TABLE.sub(lambda match: f"{match.group(1)}{table}{match.group(2)}", text)


# --- the walk of one sample ----------------------------------------------------------------------------------------

WALK = re.compile(r"(<!-- walk: .*?-->\n).*?(<!-- end of walk -->)", re.DOTALL)


def walk(run_dir: Path) -> str:
    """One wrong sample through all tables of round 1."""
    state = read_manifest(run_dir)

    def rows(table: str) -> list[dict[str, Any]]:
        return read_table(run_dir, state.receipts(1, table))

    weighted = rows("weighted")
    wrong = [row for row in weighted if row["reward"] == 0.0]
    if not wrong:
        sys.exit(f"{run_dir}: round 1 has no wrong sample")
    # One with mined steps if there is any, and of those the shortest.
    chosen = min(wrong, key=lambda r: (not any(r["mined"]), len(r["token_ids"]), r["prompt_id"], r["sample"]))
    id_ = {key: chosen[key] for key in ("round", "prompt_id", "sample")}

    def of_sample(table: str) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k not in id_} for row in rows(table) if id_.items() <= row.items()]

    prompt = next(row for row in rows("prompts") if row["prompt_id"] == chosen["prompt_id"])
    verdicts = sorted(table for round_, table in state.shards if round_ == 1 and table.startswith("verdicts."))
    parts = [f"The sample is `{id_}`; these three columns are in every table below but\n`prompts`, and are left out.\n"]
    for table, found in [
        ("prompts", [prompt]),
        *((t, of_sample(t)) for t in ("rollouts", "outcomes", "steps", *verdicts)),
    ]:
        parts.append(f"`{table}`\n\n```text\n{as_text(found)}```\n")
    parts += [f"`{t}`\n\n```text\n{as_text(of_sample(t))}```\n" for t in ("weighted", "reference")]
    return "\n".join(parts)


def as_text(found: list[dict[str, Any]]) -> str:
    """A row as a line for each column, several rows as a line each; values as JSON, floats to four digits."""

    def short(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.4g}")
        return [short(item) for item in value] if isinstance(value, list) else value

    rows = [{k: json.dumps(short(value), ensure_ascii=False) for k, value in row.items()} for row in found]
    if len(rows) == 1:
        lines = [f"{key}: {value}" for key, value in rows[0].items()]
    else:
        lines = [", ".join(f"{key}: {value}" for key, value in row.items()) for row in rows]
    return "".join(
        textwrap.fill(line, width=120, subsequent_indent="    ", break_on_hyphens=False) + "\n" for line in lines
    )


def pages() -> dict[Path, str]:
    """The generated pages by path."""
    return {
        DOCS / "config.md": config_page(),
        DOCS / "records.md": records_page(),
        DOCS / "metrics.md": metrics_page(),
        ASSETS / "bcpg_grafana_dashboard.json": grafana.dashboard_text(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--walk", type=Path, metavar="RUN", help="a run directory to take the sample from")
    options = parser.parse_args()
    for path, content in pages().items():
        path.write_text(content, encoding="utf-8")
    if options.walk is not None:
        path = DOCS / "overview.md"
        text = path.read_text(encoding="utf-8")
        found = walk(options.walk)
        path.write_text(WALK.sub(lambda match: f"{match.group(1)}{found}{match.group(2)}", text), encoding="utf-8")


if __name__ == "__main__":
    main()
