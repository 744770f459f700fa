"""Write the generated pages: ``docs/config.md`` from the config's sections, ``docs/records.md`` from tables and records, the table
in ``docs/metrics.md`` and the Grafana dashboard (an asset) from the catalog of metrics, and ``configs/schema.json`` for editors.

    python scripts/make_docs.py              # all of them; tests/architecture/test_docs.py checks that they are up to date
    python scripts/make_docs.py --walk RUN   # also the walk of one sample in docs/overview.md, from the rows of a real run

Descriptions come from the code: a config key's is the text below its field, an objective's option has an entry in its class's
``Attributes``. A key without one is an error, so no key stays undocumented.
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
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bcpg_cluster import records
from bcpg_cluster.config.identity import Decides, marks_at
from bcpg_cluster.config.run import Config
from bcpg_cluster.config.section import key_of, section_in
from bcpg_cluster.new_config.schema import config_schema
from bcpg_cluster.stages.train import objective
from bcpg_cluster.stages.train import protocol as train_protocol
from bcpg_cluster.store import faults, layout, schema
from bcpg_cluster.store.journals import lines as manifest_lines
from bcpg_cluster.store.journals import lock as run_lock
from bcpg_cluster.store.manifest import read_manifest
from bcpg_cluster.store.shards import read_table
from bcpg_cluster.watch.prometheus import catalog, grafana

ROOT = Path(__file__).resolve().parent.parent
DOCS, ASSETS = ROOT / "docs", ROOT / "bcpg_cluster" / "assets"
HEAD = "<!-- Made by scripts/make_docs.py. Change the docstrings it reads, then run it again. -->"


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
    return "\n\n".join(paragraph(part) for part in text.strip().split("\n\n"))


def paragraph(text: str) -> str:
    """Text on one line, as markdown."""
    return as_markdown(" ".join(text.split())).replace("`None`", "null")


def as_markdown(text: str) -> str:
    """Double backticks to single, cross references to plain code."""
    text = re.sub(r":\w+:`~?([^`]+)`", lambda match: f"`{match.group(1).rpartition('.')[2]}`", text)
    return text.replace("``", "`").rstrip()


def cell(text: str) -> str:
    """Text that may stand in a table; a lone sentence loses its full stop, as most cells are no sentences."""
    text = text.replace("|", "\\|").replace("\n", " ").replace("`None`", "null")
    return text if re.search(r"\. [A-Z]", text) else text.removesuffix(".")


# --- config.md -----------------------------------------------------------------------------------------------------


def config_page() -> str:
    """Every key of the configuration."""
    parts = [
        HEAD,
        "# Every config key",
        "A config is a YAML file with these sections. Unknown keys are errors. `--set section.key=value` overrides one key from "
        "the command line.",
        "A key that decides results makes another run when it changes, and that needs another directory. The column *may change* "
        "says which keys are freer. *any start*: whenever the run is started again. *`stage NAME`*: when that stage, or one "
        "before it, is run again with `--set` (of the stages, `segment`, `weigh` and `train` take changes).",
        "How to choose values, and what happens when something fails, is in [operate.md](operate.md).",
    ]
    fields = Config.model_fields
    top = [name for name, info in fields.items() if section_in(info.annotation) is None]
    parts += ["## Top level", "A whole run.", key_table(Config, (), top)]
    for name, info in fields.items():
        if name == "objective":
            parts += objectives()
        if (section := section_in(info.annotation)) is not None:
            is_mapping = typing.get_origin(info.annotation) is dict
            parts += section_parts(section, (name, "<name>") if is_mapping else (name,))
    return "\n\n".join(parts) + "\n"


def section_parts(section: type[BaseModel], path: tuple[str, ...]) -> list[str]:
    """A section and the sections inside it, each with its table."""
    parts = [f"{'#' * (len(path) + 1 - ('<name>' in path))} `{'.'.join(path)}`", prose(section.__doc__)]
    if section.model_fields:
        parts.append(key_table(section, path, section.model_fields))
    for key, info in section.model_fields.items():
        if (inner := section_in(info.annotation)) is not None:
            parts += section_parts(inner, (*path, key))
    return parts


def key_table(section: type[BaseModel], path: tuple[str, ...], keys: Iterable[str]) -> str:
    """The keys of a section as a table."""
    lines = ["| key | kind | default | may change | meaning |", "|---|---|---|---|---|"]
    for key in keys:
        info = section.model_fields[key]
        if not info.description:
            sys.exit(f"{'.'.join((*path, key))}: no text below the field says what it is")
        default = "required" if info.is_required() else yaml_of(info.get_default(call_default_factory=True))
        cells = kind_of(info), default, may_change((*path, key)), paragraph(info.description)
        lines.append(f"| `{key_of(key)}` | {' | '.join(map(cell, cells))} |")
    return "\n".join(lines)


def may_change(path: tuple[str, ...]) -> str:
    """When a key may change in the life of a run; empty where it never may."""
    marks = marks_at(Config, path)
    if marks.decides is Decides.NEVER:
        return "any start"
    return f"`stage {marks.first_read_by}`" if marks.first_read_by else ""


def objectives() -> list[str]:
    """What ``objective`` may hold: a table of options for each name."""
    parts = [
        "## Objectives",
        "The section `objective` takes `name` and the options of that name, no others. Switching it from the command line takes "
        f'the whole section: `--set "objective={{name: dpo, beta: 0.1}}"`. All of it may change with {may_change(("objective",))}. '
        "What each one trains on:",
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
    described: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        described |= attributes(parent.__doc__)
    hints = typing.get_type_hints(kind)
    lines = ["| option | kind | default | meaning |", "|---|---|---|---|"]
    shared = ("length", "constant_tokens")  # last: what is an objective's own comes first
    for field in sorted(dataclasses.fields(kind), key=lambda field: field.name in shared):
        if field.name == "name":
            continue
        if field.name not in described:
            sys.exit(f"objective {name}: its docstring has no entry for {field.name}")
        meaning = described[field.name][:1].upper() + described[field.name][1:]
        cells = type_name(hints[field.name]), yaml_of(field.default), meaning
        lines.append(f"| `{field.name}` | {' | '.join(map(cell, cells))} |")
    return "\n".join(lines)


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


def yaml_of(value: Any) -> str:
    """A default as YAML; an objective by its name."""
    if value is None:
        return "`null`"
    if dataclasses.is_dataclass(value):
        value = value.name
    if isinstance(value, str):
        return f"`{value}`" if value else "empty"
    return f"`{json.dumps(value)}`" if isinstance(value, (tuple, dict, int)) else f"`{value:g}`"


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
        "why": "where there is no reward: what failed; empty otherwise, and in tables of version 0.1.0's first runs",
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
        for field in (*schema.schema_of(tables[0]), *schema.WHERE_STORED.get(tables[0], ())):
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
        faults.FaultKind,
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
    parts += ["## `manifest.jsonl`", prose(manifest_lines.__doc__), "## `run.lock`", prose(run_lock.__doc__)]
    about = attributes(faults.FaultEvent.__doc__)
    lines = ["| field | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {cell(about[name])} |" for name in faults.FaultEvent.__dataclass_fields__]
    parts += ["## `FaultEvent`", prose(faults.FaultEvent.__doc__), "\n".join(lines)]
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
        ROOT / "configs" / "schema.json": config_schema(),
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
