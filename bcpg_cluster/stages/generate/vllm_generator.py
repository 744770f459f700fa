"""A rollout engine on vLLM: draws responses, takes new weights while it lives, scores given tokens.

An actor sets :data:`ACTOR_ENVIRONMENT` before anything imports vllm.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from bcpg_cluster.errors import ConfigError, EngineError, PushError
from bcpg_cluster.records import StopReason
from bcpg_cluster.stages.generate.engine_start import refusing_starts
from bcpg_cluster.stages.generate.entropy import position_entropies
from bcpg_cluster.stages.generate.protocol import GenerateRequest, Generation, Sampling, TopLogprobs
from bcpg_cluster.stages.generate.token_texts import token_texts
from bcpg_cluster.stages.generate.vllm_loop import EngineLoop
from bcpg_cluster.stages.generate.vllm_options import check_engine_args, with_workers
from bcpg_cluster.stages.push.adapters.versions import BASE_WEIGHTS, AdapterPush, MergeStart, weights_id
from bcpg_cluster.stages.push.protocol import PushGroup, TensorSpec

T = TypeVar("T")


UNKNOWN_VERSION: Final = -1


class VllmGenerator:
    """A :class:`~bcpg_cluster.stages.generate.protocol.RolloutEngine` on one vLLM engine.

    Args:
        model: Hugging Face name or directory; gives configuration and tokenizer for the engine's whole life.
        engine_args: vLLM's own options, passed through untouched (see :func:`check_engine_args`). A pool gives every
            member its own ``seed``: members with the same one draw the same responses to unseeded requests.
        weight_transfer_backend: ``gloo`` on CPU, ``nccl`` on GPUs, ``None`` for an engine that takes no pushes.
        policy_version: of the weights it starts with.

    Raises:
        ConfigError: invalid engine_args, or ones that vLLM does not start with.
        EngineError: vLLM's version is not the one supported, or the engine did not start.
    """

    def __init__(
        self,
        model: str,
        *,
        engine_args: Mapping[str, Any],
        weight_transfer_backend: str | None,
        policy_version: int = 0,
    ) -> None:
        check_engine_args(model, engine_args)
        # Importing it registers gloo with vLLM.
        from bcpg_cluster.stages.push import vllm_transfer as weight_transfer

        self._wire = weight_transfer
        self._backend = weight_transfer_backend
        self._model, self._revision = model, engine_args.get("revision")
        # Before the engine reads it; where a hub id lies is known afterwards.
        self._held = MergeStart.of(model, BASE_WEIGHTS) if Path(model).is_dir() else None
        self._holds_base = True
        with refusing_starts(model):
            self._loop = EngineLoop(lambda: _build(model, engine_args, weight_transfer_backend), name="vllm-rollout")
        self._tokenizer = self._loop.between_steps(lambda llm: llm.get_tokenizer())
        self._seeds_kill = self._loop.between_steps(_dies_of_seeds)
        self._prefix_block = self._loop.between_steps(_prefix_block)
        self._max_model_len: int = self._loop.between_steps(lambda llm: llm.model_config.max_model_len)
        self._tokenizer_lock = threading.Lock()  # fast tokenizers raise "Already borrowed" when two threads meet in one
        self._version = UNKNOWN_VERSION
        self._loop.between_steps(lambda llm: self._set_version(llm, policy_version))

    # --- TextGenerator -----------------------------------------------------------------------------------------------

    @property
    def policy_version(self) -> int:
        """The version of the weights that answer now; -1 after a push that failed, when nothing may be drawn."""
        return self._version

    @property
    def max_model_len(self) -> int:
        """Most tokens of a prompt and its response together."""
        return self._max_model_len

    def render(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        """The chat template's token ids, generation prompt included; or an assistant's last message, to be continued."""
        is_begun = messages[-1]["role"] == "assistant"
        with self._tokenizer_lock:
            return tuple(
                self._tokenizer.apply_chat_template(
                    list(messages),
                    add_generation_prompt=not is_begun,
                    continue_final_message=is_begun,
                    return_dict=False,
                )
            )

    def generate(self, requests: Sequence[GenerateRequest]) -> list[Generation]:
        """Answer all requests, in order; callers in other threads share the batch."""
        self._check_usable()
        if self._seeds_kill and any(request.seed is not None for request in requests):
            raise ConfigError(
                "requests with a seed of their own on a CPU engine with chunked prefill",
                rule="vLLM's CPU backend dies when it splits the prompt of a seeded request ('does not use offset')",
                remedy="set enable_chunked_prefill: false in engine_args, or draw without per-request seeds",
            )
        outputs = self._loop.submit(
            [(request.prompt_token_ids, _sampling_params(request.sampling, request.seed)) for request in requests]
        )
        return [self._generation(output, request.sampling) for request, output in zip(requests, outputs, strict=True)]

    def sleep(self) -> bool:
        """See :class:`~bcpg_cluster.stages.job.Sleeper`."""
        return self._loop.sleep()

    def wake_up(self) -> None:
        """See :class:`~bcpg_cluster.stages.job.Sleeper`."""
        self._loop.wake_up()

    def close(self) -> None:
        """Stop the engine and free its memory."""
        self._loop.close()
        gc.collect()  # engine, scheduler and worker refer to one another in circles

    @property
    def prefix_block_tokens(self) -> int | None:
        """See :class:`bcpg_cluster.stages.judge.llm.shared_prefixes.CachesPrefixes`."""
        return self._prefix_block

    # --- WeightReceiver ----------------------------------------------------------------------------------------------

    def join_push_group(self, group: PushGroup, rank: int) -> None:
        """Meet the sender; blocks until all ranks are there (the caller holds the deadline)."""
        if self._backend != group.backend:
            raise PushError(f"this engine receives by {self._backend!r}, the push group is {group.backend!r}")
        info = {"init_info": self._wire.init_info(group, rank)}
        self._pushing("joining the push group", lambda llm: llm.init_weight_transfer_engine(info))

    def receive_weights(self, specs: Sequence[TensorSpec], version: int) -> dict[str, str]:
        """Take one push, put it in force, reset the prefix cache. After a PushError nothing is drawn until a reload."""
        info = self._wire.update_info(specs)
        self._hold(None)
        return self._replace_weights("receive_push", (info,), version)

    def adapter_start(self) -> str | None:
        """See :class:`~bcpg_cluster.stages.push.protocol.WeightReceiver`."""
        if self._version == UNKNOWN_VERSION or self._backend is None:
            return None
        if self._held is None and self._holds_base:
            from bcpg_cluster.stages.train.checkpoint_source import local_checkpoint

            self._held = MergeStart.of(local_checkpoint(self._model, self._revision), BASE_WEIGHTS)
        return self._held.holds if self._held is not None and self._held.is_there else None

    def receive_adapters(self, specs: Sequence[TensorSpec], adapters: AdapterPush, version: int) -> dict[str, str]:
        """Take one push of adapters, merge them into the weights that answer now, reset the prefix cache. Raises PushError like
        :meth:`receive_weights`, and for adapters of other weights.
        """
        start, held = self.adapter_start(), self._held
        if held is None or start != adapters.start:
            raise PushError(f"the adapters are of weights {adapters.start}, and this engine can merge into {start}")
        self._hold(None)
        arguments = (self._wire.update_info(specs), held.path, adapters.scaling)
        digests = self._replace_weights("receive_adapters", arguments, version)
        self._hold(replace(held, holds=adapters.result))
        return digests

    def leave_push_group(self) -> None:
        """Drop the group. Safe to call when there is none."""
        if self._backend is not None:
            self._pushing("leaving the push group", lambda llm: llm.shutdown_weight_transfer_engine())

    def load_snapshot(self, path: str, version: int) -> dict[str, str]:
        """Put the weights of a checkpoint directory in force."""
        is_base = path == self._model
        self._hold(None)
        held = MergeStart.of(path, BASE_WEIGHTS)
        digests = self._replace_weights("load_checkpoint", (path,), version)
        self._hold(held if is_base else replace(held, holds=weights_id(digests)))
        return digests

    def score_tokens(self, sequences: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[tuple[float, ...]]:
        """Log-probs of given responses, in one pass each. vLLM never reads its prefix cache for these."""
        from vllm import SamplingParams

        self._check_usable()
        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, flat_logprobs=True, detokenize=False)
        outputs = self._loop.submit([(prompt + response, params) for prompt, response in sequences])
        scores = []
        for (prompt, _), output in zip(sequences, outputs, strict=True):
            flat = output.prompt_logprobs
            positions = range(len(prompt), len(output.prompt_token_ids))
            scores.append(tuple(flat.logprobs[flat.start_indices[position]] for position in positions))
        return scores

    def score_next(self, prefix: tuple[int, ...], token: int) -> float:
        """Log-prob of ``token`` after ``prefix``, by drawing it as decoding does, with the prefix from the cache.

        The token is forced by ``allowed_token_ids``, which acts after the raw log-probs are taken.
        (``logprob_token_ids`` would say the same, but replaces the log-probs of every other request in its batch.)
        """
        from vllm import SamplingParams

        self._check_usable()
        params = SamplingParams(
            max_tokens=1, temperature=0.0, allowed_token_ids=[token], logprobs=0, flat_logprobs=True, detokenize=False
        )
        completion = self._loop.submit([(prefix, params)])[0].outputs[0]
        if list(completion.token_ids) != [token]:
            raise EngineError(f"asked for token {token}, but vLLM drew {list(completion.token_ids)}")
        return float(completion.logprobs.logprobs[0])

    # --- within ------------------------------------------------------------------------------------------------------

    def _check_usable(self) -> None:
        if self._version == UNKNOWN_VERSION:
            raise EngineError("the weights are in an unknown state after a failed push: load a snapshot first")

    def _hold(self, held: MergeStart | None) -> None:
        """Note what the weights are made of; ``None`` where that is not known."""
        self._held, self._holds_base = held, False

    def _set_version(self, llm: Any, version: int) -> None:
        llm.llm_engine.set_weight_version(str(version))  # vLLM stamps it on every output
        self._version = version

    def _replace_weights(self, method: str, args: tuple[Any, ...], version: int) -> dict[str, str]:
        def replace(llm: Any) -> dict[str, str]:
            if self._loop.num_unfinished:
                raise PushError(f"{self._loop.num_unfinished} requests are under way: weights change only between them")
            self._version = UNKNOWN_VERSION
            digests: dict[str, str] = llm.collective_rpc(method, args=args)[0]
            if not llm.reset_prefix_cache():
                raise PushError("vLLM would not reset its prefix cache: old weights would answer from cached prefixes")
            self._set_version(llm, version)
            return digests

        return self._pushing(f"weights of version {version}", replace)

    def _pushing(self, what: str, run: Callable[[Any], T]) -> T:
        try:
            return self._loop.between_steps(run)
        except (PushError, EngineError):
            raise
        except Exception as error:
            raise PushError(f"{what}: {error!r}") from error

    def _generation(self, output: Any, sampling: Sampling) -> Generation:
        completion = output.outputs[0]
        token_ids = tuple(completion.token_ids)
        versions = {int(span.version) for span in completion.weight_versions or ()} or {self._version}
        if len(versions) > 1:
            raise EngineError(f"one response was drawn from weights of several versions: {sorted(versions)}")
        with self._tokenizer_lock:
            texts = token_texts(self._tokenizer, token_ids)
        flat = completion.logprobs  # of each token first its own, then the most probable ones
        logprobs = tuple(flat.logprobs[start] for start in flat.start_indices)
        top = None
        if sampling.num_top_logprobs > 0:
            top = TopLogprobs(flat.start_indices, flat.token_ids, flat.logprobs, self._text_of)
        entropies = position_entropies(flat, len(logprobs)) if sampling.entropy_top_k > 0 else ()
        stop = {"stop": StopReason.STOP, "length": StopReason.LENGTH}.get(completion.finish_reason, StopReason.ABORTED)
        num_cached = output.num_cached_tokens or 0
        return Generation(token_ids, logprobs, texts, stop, versions.pop(), top, entropies, num_cached)

    def _text_of(self, token_id: int) -> str:
        with self._tokenizer_lock:
            return str(self._tokenizer.decode([token_id], clean_up_tokenization_spaces=False))


def _sampling_params(sampling: Sampling, seed: int | None) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    schema = sampling.json_schema
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        seed=seed,
        logprobs=max(sampling.num_top_logprobs, sampling.entropy_top_k),  # beside that of the drawn token; raw
        flat_logprobs=True,
        detokenize=False,  # texts are made per token in _generation, after the engine's work
        output_kind=RequestOutputKind.FINAL_ONLY,
        structured_outputs=StructuredOutputsParams(json=schema) if schema is not None else None,
    )


def _dies_of_seeds(llm: Any) -> bool:
    """Whether a seeded request can kill this engine: after a part of a prompt vLLM rewinds the request's random
    generator, and a CPU generator cannot be rewound.
    """
    from vllm.platforms import current_platform

    return current_platform.is_cpu() and llm.llm_engine.vllm_config.scheduler_config.enable_chunked_prefill


def _prefix_block(llm: Any) -> int | None:
    """Tokens of a block of the prefix cache; ``None`` without one."""
    cache = llm.llm_engine.vllm_config.cache_config
    return int(cache.block_size) if cache.enable_prefix_caching else None


def _build(model: str, engine_args: Mapping[str, Any], weight_transfer_backend: str | None) -> Any:
    from vllm import LLM
    from vllm.config import WeightTransferConfig

    transfer = WeightTransferConfig(backend=weight_transfer_backend) if weight_transfer_backend else None
    return LLM(
        model,
        **with_workers(engine_args),
        logprobs_mode="raw_logprobs",
        weight_transfer_config=transfer,
        worker_extension_cls="bcpg_cluster.stages.push.adapters.vllm_worker.AdapterWorker",
    )
