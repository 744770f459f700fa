"""Responses made elsewhere become round 1 of a new run, which continues at `verify`.

They are tokenised once, here, by the policy's own tokenizer; from then on their ids are the truth, as those of drawn
responses are. What is unknown about them is absent and said to be: no sampler log-probs (an empty list), no seed, and for the
policy version a number below 0 that stands for ``external:<digest of the file>`` (``import.json`` in the round's folder).
Training needs neither: the reference of round 1 is the base policy by the trainer's own forward (docs/method.md).
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bcpg_cluster.config.run import Config
from bcpg_cluster.errors import DataError
from bcpg_cluster.exchange.foreign_rollouts import Style, Translation, style_of
from bcpg_cluster.exchange.import_tokenizer import ImportTokenizer
from bcpg_cluster.exchange.new_directory import new_directory
from bcpg_cluster.exchange.rollout_file import ImportedGroup, ImportedResponse, RolloutFile, first_columns
from bcpg_cluster.prompts.bad_rows import count_faults
from bcpg_cluster.records import EXTERNAL_POLICY_VERSION, Prompt, Rollout, SampleId, StopReason
from bcpg_cluster.run.build.segmenters import check_for_imports
from bcpg_cluster.run.directory import open_run
from bcpg_cluster.stages.generate.counts import RolloutCounts
from bcpg_cluster.store.layout import new_attempt
from bcpg_cluster.store.manifest import Manifest
from bcpg_cluster.store.rows import Row, prompt_row, rollout_row
from bcpg_cluster.store.shards import write_shard

IMPORT_ROUND = 1
_THINK = "<think>"  # how thinking models open their thoughts; some chat templates write it at the end of the prompt
IMPORT_FILE = f"rounds/{IMPORT_ROUND:04d}/import.json"


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What was imported.

    Attributes:
        policy: ``external:<first 16 hex digits of the file's sha256>``.
        num_alone: prompts with a single response: such a group is always uniform and teaches nothing.
        max_model_len: the policy's context; ``None`` where it is not known.
        num_longer: samples that are longer with their prompt than the context: they are trained on, but the policy could not
            draw them, and of them a push is proven on what fits alone.
        style: whose file it is (``exchange.foreign_rollouts.Style``).
        num_bad: lines of it that were left out (``--skip-bad``), by what is wrong with them in ``bad``.
        absent: columns of ``rollouts`` that hold nothing, since it is unknown.
    """

    policy: str
    policy_version: int
    source: str
    sha256: str
    num_prompts: int
    num_samples: int
    num_tokens: int
    num_shards: int
    num_alone: int
    max_model_len: int | None
    num_longer: int
    style: str = "own"
    num_bad: int = 0
    bad: dict[str, int] = field(default_factory=dict)
    absent: tuple[str, ...] = ("sampler_logprobs", "seed")


def import_rollouts(
    source: Path,
    run_dir: Path,
    config: Config,
    tokenizer: ImportTokenizer,
    *,
    columns: Mapping[str, str] | None = None,
    check_prompts: Callable[[Sequence[Prompt]], None] = lambda prompts: None,
    max_model_len: int | None = None,
    style: Style | None = "own",
    problems: Sequence[Prompt] = (),
    skip_bad: bool = False,
) -> ImportSummary:
    """Make a run whose first round has its prompts and rollouts sealed; the directory appears whole or not at all.

    Args:
        source: JSON lines (see ``exchange.rollout_file``).
        columns: the file's name for each column that has another one there.
        check_prompts: raises :class:`DataError` for prompts this run may not learn from (its test problems, say).
        max_model_len: the policy's context, in tokens; longer samples are counted. ``None`` where it is not known.
        style: who wrote the file; ``None`` to tell it by the columns.
        problems: where answers come from that the file lacks, by question.
        skip_bad: leave lines out that cannot be used; otherwise one of them stops the import.

    Raises:
        ConfigError: the config's segmenter reads what imported responses lack.
        DataError: the file is invalid, the tokenizer changes a response, or ``run_dir`` is not free.
    """
    check_for_imports(config.segment)
    chosen = style or ("own" if columns else style_of(first_columns(source)))
    translation = Translation.to(chosen, problems, tokenizer)
    with RolloutFile(source, columns, None if chosen == "own" else translation.row) as file:
        if not (skip_bad and file.groups):
            file.check()
        return _import(file, run_dir, config, tokenizer, check_prompts, max_model_len, chosen, skip_bad=skip_bad)


def _import(
    file: RolloutFile,
    run_dir: Path,
    config: Config,
    tokenizer: ImportTokenizer,
    check_prompts: Callable[[Sequence[Prompt]], None],
    max_model_len: int | None,
    style: Style,
    *,
    skip_bad: bool,
) -> ImportSummary:
    check_prompts([group.prompt for group in file.groups])
    per_shard = config.generate.prompts_per_shard
    shards = [file.groups[start : start + per_shard] for start in range(0, len(file.groups), per_shard)]
    found: Counter[str] = Counter()
    with new_directory(run_dir) as staging:
        with open_run(staging, config) as manifest:
            for number, groups in enumerate(shards):
                rollouts = _write_shards(manifest, number, file, groups, tokenizer)
                found["tokens"] += sum(len(rollout.token_ids) for rollout in rollouts)
                found["longer"] += sum(_is_longer(rollout, max_model_len) for rollout in rollouts)
                found["samples"] += len(rollouts)
                sizes = Counter(rollout.id.prompt_id for rollout in rollouts)
                found["prompts"] += len(sizes)
                found["alone"] += sum(size == 1 for size in sizes.values())
            if not (skip_bad and found["samples"]):
                file.check()
            for table in ("prompts", "rollouts"):
                manifest.seal(IMPORT_ROUND, table, len(shards))
            summary = ImportSummary(
                policy=f"external:{file.digest[:16]}",
                policy_version=EXTERNAL_POLICY_VERSION,
                source=file.path.name,
                sha256=file.digest,
                num_prompts=found["prompts"],
                num_samples=found["samples"],
                num_tokens=found["tokens"],
                num_shards=len(shards),
                num_alone=found["alone"],
                max_model_len=max_model_len,
                num_longer=found["longer"],
                style=style,
                num_bad=len(file.bad),
                bad=count_faults(file.bad),
            )
            manifest.add_import(asdict(summary))
        (staging / IMPORT_FILE).write_text(json.dumps(asdict(summary), indent=2) + "\n")
    return summary


def _write_shards(
    manifest: Manifest, number: int, file: RolloutFile, groups: Sequence[ImportedGroup], tokenizer: ImportTokenizer
) -> list[Rollout]:
    """Write one shard of prompts and its rollouts, which come back."""
    started = time.monotonic()
    rollouts = [rollout for group in groups for rollout in _rollouts(file, group, tokenizer)]
    answered = {rollout.id.prompt_id for rollout in rollouts}
    metrics = RolloutCounts.of((len(rollout.token_ids), rollout.stop_reason) for rollout in rollouts).metrics()
    tables: dict[str, list[Row]] = {
        "prompts": [prompt_row(group.prompt) for group in groups if group.prompt.prompt_id in answered],
        "rollouts": [rollout_row(rollout) for rollout in rollouts],
    }
    for table, rows in tables.items():
        manifest.accept(
            write_shard(
                manifest.run_dir,
                table=table,
                round_=IMPORT_ROUND,
                shard=number,
                attempt=new_attempt(),
                rows=rows,
                seconds=time.monotonic() - started,
                metrics=metrics if table == "rollouts" else {},
            )
        )
    return rollouts


def _is_longer(rollout: Rollout, max_model_len: int | None) -> bool:
    return max_model_len is not None and len(rollout.prompt_token_ids) + len(rollout.token_ids) > max_model_len


def _rollouts(file: RolloutFile, group: ImportedGroup, tokenizer: ImportTokenizer) -> list[Rollout]:
    """The responses of one prompt, in order of their sample numbers."""
    prompt_ids = tokenizer.render([{"role": "user", "content": group.prompt.question}])
    rollouts = []
    for sample, line, found in file.read(group):
        try:
            rollouts.append(
                _rollout(found, SampleId(IMPORT_ROUND, group.prompt.prompt_id, sample), prompt_ids, tokenizer)
            )
        except DataError as error:
            file.refuse(line, error)
    return sorted(rollouts, key=lambda rollout: rollout.id.sample)


def _rollout(
    found: ImportedResponse, id_: SampleId, prompt_ids: tuple[int, ...], tokenizer: ImportTokenizer
) -> Rollout:
    """One response in the policy's tokens. Raises :class:`DataError` where it cannot be said in them."""
    ids, texts = tokenizer.encode(found.response)
    check_round_trip(found.response, ids, texts)
    if found.response.lstrip().startswith(_THINK) and _ends_with(prompt_ids, tokenizer.encode(_THINK)[0]):
        raise DataError(
            f"the response begins with {_THINK}, which already ends the chat template's prompt",
            rule="a prompt ends where the response begins; thinking is opened once, by the template or by the response",
            remedy=f"remove the leading {_THINK} from the responses",
        )
    if found.stop_reason is StopReason.STOP and tokenizer.end_token_id is not None:
        # a drawn response that ended by itself has its end token, and the policy is to learn it
        ids, texts = (*ids, tokenizer.end_token_id), (*texts, "")
    return Rollout(id_, prompt_ids, ids, (), texts, found.stop_reason, EXTERNAL_POLICY_VERSION, seed=None)


def _ends_with(prompt_ids: Sequence[int], ids: Sequence[int]) -> bool:
    """Whether a prompt ends with these ids, up to two more (line breaks)."""
    ends = (len(prompt_ids) - more for more in range(3))
    return any(tuple(prompt_ids[max(end - len(ids), 0) : end]) == tuple(ids) for end in ends)


def check_round_trip(response: str, ids: Sequence[int], texts: Sequence[str]) -> None:
    """Raises :class:`DataError` when the tokens' texts do not join to the response they were made of."""
    joined = "".join(texts)
    if joined == response and len(ids) == len(texts) > 0:
        return
    place = next(
        (k for k, (a, b) in enumerate(zip(response, joined, strict=False)) if a != b), min(len(response), len(joined))
    )
    raise DataError(
        f"the tokenizer changes the response: from character {place} on it was "
        f"{response[place : place + 20]!r} and comes back as {joined[place : place + 20]!r} "
        f"({len(ids)} tokens, {len(texts)} texts)",
        rule="the texts of a response's tokens join to the response; otherwise its steps cannot be mapped to tokens",
        remedy="use the tokenizer of the policy that is trained; write the text as it normalises it; leave special tokens "
        "such as the end token out (that one is added here)",
    )
