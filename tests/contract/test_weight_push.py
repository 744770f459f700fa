"""New weights into live engines: what answers afterwards is the new model, in every parameter, cached prefixes included."""

from __future__ import annotations

import copy
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bcpg_cluster.errors import EngineError, PushError
from bcpg_cluster.stages.fakes.generator import FakeGenerator
from bcpg_cluster.stages.fakes.trainer import FakeTrainerRank
from bcpg_cluster.stages.generate.protocol import GenerateRequest, Sampling
from bcpg_cluster.stages.push.arrivals import arrival_faults
from bcpg_cluster.stages.push.canaries import Canary, judge_canaries
from bcpg_cluster.stages.push.protocol import PushGroup, TensorSpec
from bcpg_cluster.stages.train.objective import Bcpg
from bcpg_cluster.stages.train.protocol import LoraSettings, TrainRow, TrainSettings
from benchmarks.measure import free_port
from tests.listening import beyond_loopback, listening

PREFIX = tuple(range(70, 70 + 75))  # two whole cache blocks and a rest
CANARIES = [(PREFIX[:9], tuple(range(200, 230))), (PREFIX, (6, 7, 8, 250)), ((1, 70), (300, 2, 3, 4, 5))]
NEXT = 251
EXACT = 1e-4  # nats; two float32 implementations of one model


def named_tensors(model: Any) -> list[tuple[TensorSpec, Any]]:
    """What a trainer sends: ``named_parameters`` leaves tied duplicates out."""
    return [
        (TensorSpec(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)), tensor.detach())
        for name, tensor in model.named_parameters()
    ]


def sent(model: Any, dtype: str = "float32") -> dict[str, str]:
    """The digests of a model's parameters as a push sends them."""
    from bcpg_cluster.stages.push.wire import as_sent, wire_digest

    return {name: wire_digest(as_sent(tensor, dtype)) for name, tensor in model.named_parameters()}


def reference_scores(model: Any) -> list[float]:
    """The canaries' log-probs and the next token's, by transformers."""
    import torch

    scores = []
    with torch.no_grad():
        for prompt, response in [*CANARIES, (PREFIX, (NEXT,))]:
            logprobs = model(torch.tensor([prompt + response])).logits.float().log_softmax(-1)[0]
            scores += [logprobs[len(prompt) + i - 1, token].item() for i, token in enumerate(response)]
    return scores


def engine_scores(engine: Any) -> list[float]:
    following = engine.score_next(PREFIX, NEXT)  # first, because scoring whole sequences also fills the prefix cache
    return [*(score for scores in engine.score_tokens(CANARIES) for score in scores), following]


def worst(scores: list[float], reference: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(scores, reference, strict=True))


def one_adamw_step(model: Any) -> Any:
    import torch

    stepped = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(stepped.parameters(), lr=1e-4, weight_decay=0.0)
    ids = torch.tensor([list(PREFIX)])
    stepped(ids, labels=ids).loss.backward()
    optimizer.step()
    return stepped


def send_in_process(path: str, group: PushGroup) -> None:
    """The trainer's side of a push, in a process without any engine."""
    from transformers import AutoModelForCausalLM

    from bcpg_cluster.stages.push.vllm_sender import WeightSender

    sender = WeightSender()
    sender.join(group)
    sender.send(iter(named_tensors(AutoModelForCausalLM.from_pretrained(path))))
    sender.leave()


def push(engine: Any, tensors: list[tuple[TensorSpec, Any]], version: int) -> dict[str, str]:
    """One push from another thread."""
    from bcpg_cluster.stages.push.vllm_sender import WeightSender

    group = PushGroup("127.0.0.1", free_port(), 2, "gloo")
    sender = WeightSender()
    stdout = os.dup(1)
    with ThreadPoolExecutor(1) as thread:
        joined = thread.submit(sender.join, group)
        engine.join_push_group(group, rank=1)
        joined.result()
        assert beyond_loopback(listening(os.getpid())) == []  # neither the rendezvous nor gloo's own pairs
        # vLLM silences stdout while it makes a group; two threads at it in one process leave it silent for good.
        os.dup2(stdout, 1)
        os.close(stdout)
        sending = thread.submit(sender.send, iter(tensors))
        try:
            digests: dict[str, str] = engine.receive_weights([spec for spec, _ in tensors], version)
        except PushError:
            engine.leave_push_group()  # or the sender would wait for a receiver that takes no more
            raise
        sending.result()
    engine.leave_push_group()
    sender.leave()
    return digests


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_pushed_weights_answer(
    kind: str,
    request: pytest.FixtureRequest,
    make_model: Callable[..., tuple[Any, str]],
    cached_tokens: Callable[..., Any],
    tmp_path: Path,
) -> None:
    from bcpg_cluster.stages.push.digest import tensor_digest

    engine = request.getfixturevalue(f"{kind}_engine")
    base, base_path = request.getfixturevalue(f"{kind}_model")
    other, other_path = make_model(kind == "tied", seed=1)
    stepped = one_adamw_step(base)
    stepped.save_pretrained(tmp_path)
    engine.load_snapshot(base_path, 0)
    present = reference_scores(base)
    assert worst(engine_scores(engine), present) < EXACT

    def check(model: Any, version: int) -> None:
        """The engine now is ``model``: in one pass, in decoding, and through the prefix that was cached before."""
        nonlocal present
        expected = reference_scores(model)
        change = worst(expected, present)
        with cached_tokens(engine) as cached:
            error = worst(engine_scores(engine), expected)
        assert sum(cached) == 0  # the cached prefix is gone with the old weights
        with cached_tokens(engine) as cached:
            assert worst(engine_scores(engine), expected) < EXACT  # and through the newly cached one
        assert sum(cached) == 64
        print(f"\n{kind} version {version}: error {error:.1e}, change {change:.1e}")
        assert error < EXACT
        assert change > 10 * EXACT
        assert engine.policy_version == version
        answer = engine.generate([GenerateRequest(PREFIX, Sampling(max_tokens=2))])[0]
        assert answer.policy_version == version
        present = expected

    for version, model in enumerate((stepped, other, base), start=1):
        begin = time.perf_counter()
        digests = push(engine, named_tensors(model), version)
        print(f"\npush {time.perf_counter() - begin:.2f} s")
        assert digests == sent(model)
        assert ("lm_head.weight" in digests) == (kind == "untied")
        check(model, version)

    for version, (model, path) in enumerate(((other, other_path), (stepped, str(tmp_path))), start=4):
        digests = engine.load_snapshot(path, version)
        assert digests == {name: tensor_digest(tensor) for name, tensor in model.named_parameters()}
        check(model, version)
    engine.load_snapshot(base_path, 0)


@pytest.mark.engine
def test_push_from_another_process(
    tied_engine: Any, tied_model: tuple[Any, str], make_model: Callable[..., tuple[Any, str]]
) -> None:
    model, path = make_model(True, seed=2)
    group = PushGroup("127.0.0.1", free_port(), 2, "gloo")
    process = multiprocessing.get_context("spawn").Process(target=send_in_process, args=(path, group))
    process.start()
    tied_engine.join_push_group(group, rank=1)
    begin = time.perf_counter()
    tied_engine.receive_weights([spec for spec, _ in named_tensors(model)], 9)
    print(f"\npush from another process {time.perf_counter() - begin:.2f} s")
    process.join()
    assert process.exitcode == 0
    assert worst(engine_scores(tied_engine), reference_scores(model)) < EXACT
    tied_engine.leave_push_group()
    tied_engine.leave_push_group()
    tied_engine.load_snapshot(tied_model[1], 0)


@pytest.mark.engine
@pytest.mark.parametrize("bucket_bytes", [4096, 64])
def test_layers_and_tensors_that_lie_in_many_buckets(
    bucket_bytes: int,
    tied_engine: Any,
    tied_model: tuple[Any, str],
    make_model: Callable[..., tuple[Any, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One layer's parameters come in several buckets, whose memory is used again and again, and a tensor in many pieces."""
    from bcpg_cluster.stages.push import vllm_sender, vllm_transfer
    from bcpg_cluster.stages.push.buckets import spec_bytes

    monkeypatch.setattr(vllm_sender, "BUCKET_BYTES", bucket_bytes)
    monkeypatch.setattr(vllm_transfer, "BUCKET_BYTES", bucket_bytes)
    other, _ = make_model(True, seed=4)
    sizes = [spec_bytes(spec) for spec, _ in named_tensors(other)]
    assert max(sizes) > 10 * bucket_bytes
    assert sum(sizes) > 50 * bucket_bytes
    assert push(tied_engine, named_tensors(other), 3) == sent(other)
    assert worst(engine_scores(tied_engine), reference_scores(other)) < EXACT
    tied_engine.load_snapshot(tied_model[1], 0)


@pytest.mark.engine
def test_an_engine_in_bfloat16_holds_the_same_by_wire_and_from_disk(
    tied_model: tuple[Any, str], make_model: Callable[..., tuple[Any, str]], bfloat16_engine: Any
) -> None:
    """Half the bytes travel; the digests are of what travels, and every log-prob is the same to the last bit."""
    from bcpg_cluster.stages.push.wire import sent_dtype

    other, path = make_model(True, seed=1)
    bfloat16_engine.load_snapshot(tied_model[1], 0)
    old = engine_scores(bfloat16_engine)
    bfloat16_engine.load_snapshot(path, 1)
    from_disk = engine_scores(bfloat16_engine)
    bfloat16_engine.load_snapshot(tied_model[1], 2)
    tensors = [
        (TensorSpec(spec.name, sent_dtype("bfloat16", spec.shape), spec.shape), tensor)  # rounded by the sender
        for spec, tensor in named_tensors(other)
    ]
    assert {spec.dtype for spec, _ in tensors} == {"float32", "bfloat16"}
    assert push(bfloat16_engine, tensors, 3) == sent(other, "bfloat16")
    assert engine_scores(bfloat16_engine) == from_disk
    assert worst(old, from_disk) > 10 * EXACT


@pytest.mark.engine
def test_an_engine_that_keeps_more_than_is_sent_refuses(tied_engine: Any, tied_model: tuple[Any, str]) -> None:
    """From disk it would get the whole of it, and engines of one version would differ."""
    base, path = tied_model
    tensors = [
        (TensorSpec(spec.name, "bfloat16" if len(spec.shape) > 1 else "float32", spec.shape), tensor)
        for spec, tensor in named_tensors(base)
    ]
    with pytest.raises(PushError, match="in a wider dtype than they are sent in"):
        push(tied_engine, tensors, 3)
    tied_engine.load_snapshot(path, 0)


@pytest.mark.engine
@pytest.mark.parametrize("fault", ["missing", "misshapen", "unknown"])
def test_a_failed_push_is_loud_and_mended_by_a_reload(
    fault: str, tied_engine: Any, tied_model: tuple[Any, str], make_model: Callable[..., tuple[Any, str]]
) -> None:
    import torch

    other, _ = make_model(True, seed=1)
    tensors = named_tensors(other)
    if fault == "missing":
        del tensors[5]
    elif fault == "misshapen":
        tensors[5] = (TensorSpec(tensors[5][0].name, "float32", (3, 3)), torch.zeros(3, 3))
    else:
        tensors.append((TensorSpec("model.nonsense.weight", "float32", (2,)), torch.zeros(2)))
    with pytest.raises(PushError):
        push(tied_engine, tensors, 7)
    assert tied_engine.policy_version == -1
    with pytest.raises(EngineError, match="load a snapshot"):
        tied_engine.generate([GenerateRequest(PREFIX, Sampling(max_tokens=2))])
    with pytest.raises(PushError, match="no safetensors"):
        tied_engine.load_snapshot("/nonexistent", 3)
    base, path = tied_model
    tied_engine.load_snapshot(path, 3)
    assert worst(engine_scores(tied_engine), reference_scores(base)) < EXACT
    push(tied_engine, named_tensors(other), 4)
    assert worst(engine_scores(tied_engine), reference_scores(other)) < EXACT
    tied_engine.load_snapshot(path, 0)


@pytest.mark.engine
def test_a_byte_flipped_on_the_wire_shows_in_the_digests(
    tied_engine: Any, tied_model: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bcpg_cluster.stages.push import vllm_sender
    from bcpg_cluster.stages.push.digest import tensor_digest

    base, path = tied_model
    post = vllm_sender.post

    def flip(group: Any, flat: Any) -> Any:
        flat[flat.numel() // 2] ^= 1
        return post(group, flat)

    monkeypatch.setattr(vllm_sender, "post", flip)
    digests = push(tied_engine, named_tensors(base), 5)
    assert arrival_faults(sent(base), digests).startswith("1 parameters differ from the snapshot")
    written = {name: tensor_digest(tensor) for name, tensor in base.named_parameters()}
    assert arrival_faults(written, tied_engine.load_snapshot(path, 0)) == ""


@pytest.mark.engine
def test_a_tied_head_that_keeps_the_old_weights_is_found_by_canaries(
    tied_engine: Any,
    tied_model: tuple[Any, str],
    make_model: Callable[..., tuple[Any, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What vLLM's own reload leaves on CPUs: every digest is right, and the head multiplies with a copy of the old weights."""
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

    from bcpg_cluster.stages.push import vllm_transfer

    other, _ = make_model(True, seed=1)
    monkeypatch.setattr(vllm_transfer, "finish_reload", finalize_layerwise_reload)
    digests = push(tied_engine, named_tensors(other), 6)
    assert arrival_faults(sent(other), digests) == ""
    wanted = iter(reference_scores(other))
    canaries = []
    for prompt, response in CANARIES:
        scores = tuple(next(wanted) for _ in response)
        canaries.append(Canary(prompt, response, scores, scores))
    with pytest.raises(PushError, match="do not hold the weights"):
        judge_canaries(canaries, [tied_engine.score_tokens(CANARIES)], None, 1e-3, seconds=0.0)
    tied_engine.load_snapshot(tied_model[1], 0)


@pytest.mark.engine
def test_adapters_that_were_left_out_of_a_push_are_found(tied_engine: Any, tied_model: tuple[Any, str]) -> None:
    """With the merged weights an engine says what the model with its adapters says; with the bare ones it is caught."""
    import torch

    from bcpg_cluster.stages.push.adapters.merge import merged
    from bcpg_cluster.stages.push.wire import wire_digest
    from bcpg_cluster.stages.train.lora import add_adapters

    base, path = tied_model
    adapted = copy.deepcopy(base)
    adapters = add_adapters(adapted, LoraSettings(rank=4, alpha=8.0), seed=1)
    with torch.no_grad():
        for adapter in adapters.values():
            adapter.up.normal_(std=0.05, generator=torch.Generator().manual_seed(2))
    whole = [
        (spec, merged(tensor, adapters[spec.name].down, adapters[spec.name].up, adapters[spec.name].scaling).detach())
        if spec.name in adapters
        else (spec, tensor)
        for spec, tensor in named_tensors(base)
    ]
    written = {spec.name: wire_digest(tensor) for spec, tensor in whole}
    wanted = reference_scores(adapted)
    assert worst(reference_scores(base), wanted) > 100 * EXACT

    assert arrival_faults(written, push(tied_engine, whole, 7)) == ""
    assert worst(engine_scores(tied_engine), wanted) < EXACT

    assert f"{len(adapters)} parameters differ" in arrival_faults(written, push(tied_engine, named_tensors(base), 8))
    scores = iter(wanted)
    canaries = [
        Canary(prompt, response, said, said)
        for prompt, response in CANARIES
        for said in [tuple(next(scores) for _ in response)]
    ]
    with pytest.raises(PushError, match="do not hold the weights"):
        judge_canaries(canaries, [tied_engine.score_tokens(CANARIES)], None, 1e-3, seconds=0.0)
    tied_engine.load_snapshot(path, 0)


@pytest.mark.engine
def test_no_push_under_work(tied_engine: Any, tied_model: tuple[Any, str]) -> None:
    version = tied_engine.policy_version
    with ThreadPoolExecutor(1) as thread:
        work = [GenerateRequest(PREFIX, Sampling(max_tokens=170))] * 100
        drawing = thread.submit(tied_engine.generate, work)
        while not (tied_engine._loop.num_unfinished or drawing.done()):
            time.sleep(0.001)
        with pytest.raises(PushError, match="under way"):
            tied_engine.load_snapshot(tied_model[1], version + 1)
        assert {answer.policy_version for answer in drawing.result()} == {version}
    assert tied_engine.policy_version == version
    with pytest.raises(PushError, match="push group is 'nccl'"):
        tied_engine.join_push_group(PushGroup("127.0.0.1", 1, 2, "nccl"), 1)


@pytest.mark.engine
def test_senders_say_what_they_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from bcpg_cluster.stages.push import vllm_transfer as wire
    from bcpg_cluster.stages.push.vllm_sender import WeightSender

    with pytest.raises(PushError, match="join one"):
        WeightSender().send(iter([]))
    with pytest.raises(PushError, match="no sender"):
        WeightSender().join(PushGroup("127.0.0.1", 1, 2, "carrier-pigeon"))
    monkeypatch.setattr("vllm.__version__", "0.33.0")
    with pytest.raises(EngineError, match=r"0\.32"):
        wire.check_vllm_version()


@pytest.mark.engine
def test_nccl_names_exist() -> None:
    """All that can be checked without a GPU: the functions the nccl path calls are where it looks for them."""
    import inspect

    from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo, trainer_init
    from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferUpdateInfo
    from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

    from bcpg_cluster.stages.push import vllm_transfer as wire

    wanted = {"iterator", "group", "src", "post_iter_func", "buffer_size_bytes"}
    assert wanted <= set(inspect.signature(packed_nccl_broadcast_producer).parameters)
    assert "init_info" in inspect.signature(trainer_init).parameters
    NCCLWeightTransferInitInfo(**wire.init_info(PushGroup("h", 1, 2, "nccl"), 1))
    NCCLWeightTransferUpdateInfo(**wire.update_info([TensorSpec("a", "float32", (1,))]))


# --- the fakes keep the same promises --------------------------------------------------------------------------------


@pytest.fixture
def settings() -> TrainSettings:
    return TrainSettings(objective=Bcpg(), learning_rate=1e-4, min_learning_rate=1e-5, batch_sequences=2)


def test_fake_cycle_learns(settings: TrainSettings, tmp_path: Path) -> None:
    trainer, generators = FakeTrainerRank(skill=0.5), [FakeGenerator(skill=0.5), FakeGenerator(skill=0.5)]
    row = TrainRow((65,), (66, 0), (1.0, 1.0), 0.5, 1.0, 0.5, 2, (False, False))
    model, canary = str(tmp_path / "base"), [((65, 66), (67, 68))]
    for version in (1, 2):
        before = generators[0].score_tokens(canary)
        trainer.open(model, settings)
        rows = [row] * 3
        assert set(trainer.reference_logprobs(rows)) == {0, 1, 2}
        reports = trainer.train(rows, None)
        assert [(report.num_sequences, report.num_tokens) for report in reports] == [(2, 4), (1, 2)]
        model = str(tmp_path / f"version{version}")
        digests = trainer.save_snapshot(model)
        assert digests is not None
        group = PushGroup("127.0.0.1", free_port(), 3, "gloo")
        with ThreadPoolExecutor(3) as threads:
            joins = [threads.submit(trainer.join_push_group, group)]
            joins += [threads.submit(g.join_push_group, group, rank) for rank, g in enumerate(generators, start=1)]
            for join in joins:
                join.result()
            receipts = [threads.submit(g.receive_weights, trainer.push_specs(), version) for g in generators]
            trainer.push_weights()
            assert [receipt.result() for receipt in receipts] == [digests.wire] * 2
        for generator in generators:
            assert generator.policy_version == version
            assert generator.score_tokens(canary) == trainer.score_tokens(canary) != before
    late = FakeGenerator(snapshot=model, policy_version=2)
    assert late.skill == generators[0].skill == pytest.approx(0.755)
    assert late.score_tokens(canary) == generators[0].score_tokens(canary)


def test_fake_trainer_ranks_share_rows(settings: TrainSettings) -> None:
    rows = [TrainRow((65,), (66, 0), (1.0, 1.0), 0.5, 1.0, 0.5, 2, (False, False))] * 5
    shares = [FakeTrainerRank(rank, 2).reference_logprobs(rows) for rank in (0, 1)]
    assert sorted([*shares[0], *shares[1]]) == [0, 1, 2, 3, 4]
    second = FakeTrainerRank(1, 2)
    second.open("nowhere", settings)
    assert second.save_snapshot("nowhere") is None
    second.join_push_group(PushGroup("127.0.0.1", 1, 2, "gloo"))
    assert second.push_weights() == second.push_specs()
    with pytest.raises(EngineError):
        FakeTrainerRank().train(rows, None)


def test_fake_push_errors(tmp_path: Path) -> None:
    generator = FakeGenerator()
    with pytest.raises(PushError, match="join one"):
        generator.receive_weights(FakeTrainerRank().push_specs(), 1)
    with pytest.raises(PushError, match=r"fake\.json"):
        generator.load_snapshot(str(tmp_path), 1)
    with pytest.raises(PushError, match="join one"):
        FakeTrainerRank().push_weights()
    assert generator.policy_version == 0
    assert threading.active_count() < 50


def test_sender_iterates_lazily() -> None:
    """A ZeRO-3 source frees each parameter when the next is asked for: the sender must have copied it by then."""
    import torch

    from bcpg_cluster.stages.push.vllm_sender import WeightSender

    sender, sent = WeightSender(), []
    sender._backend = "gloo"

    class Group:
        def broadcast(self, tensors: list[Any], options: Any) -> Any:
            sent.append(tensors[0].clone())
            return self

        def wait(self) -> None: ...

    sender._group = Group()

    def gathered() -> Iterator[tuple[TensorSpec, Any]]:
        for value in (1.0, 2.0):
            tensor = torch.full((4,), value)
            yield TensorSpec(str(value), "float32", (4,)), tensor
            tensor.zero_()

    sender.send(gathered())
    assert torch.cat(sent).view(torch.float32).tolist() == [1.0] * 4 + [2.0] * 4


def test_a_buffer_is_not_filled_while_it_travels() -> None:
    """Two buffers take turns; what is sent is looked at when its broadcast ends, as the wire may do."""
    import torch

    from bcpg_cluster.stages.push.vllm_sender import _Outbox

    sent: list[Any] = []
    under_way: list[Any] = []

    class Work:
        def __init__(self, flat: Any) -> None:
            self.flat = flat
            under_way.append(self)

        def wait(self) -> None:
            assert under_way.pop(0) is self
            sent.append(self.flat.clone())

    class Group:
        def broadcast(self, tensors: list[Any], options: Any) -> Any:
            return Work(tensors[0])

    tensors = [torch.full(shape, float(i)) for i, shape in enumerate([(4,), (4,), (3,), (20,), (2,), (8,), (0,), (5,)])]
    outbox, most = _Outbox(Group(), 32), 0
    for tensor in tensors:
        outbox.put(TensorSpec("x", "float32", tuple(tensor.shape)), tensor)
        most = max(most, len(under_way))
    outbox.flush()
    assert (under_way, most) == ([], 1)  # one travels while the other is filled
    assert max(flat.numel() for flat in sent) <= 32
    values = torch.cat(sent).view(torch.float32)
    padded = [0] * 4 + [1] * 4 + [2] * 3 + [None] + [3] * 20 + [4] * 2 + [None] * 2 + [5] * 8 + [7] * 5 + [None] * 3
    assert [
        value if wanted is not None else None for value, wanted in zip(values.tolist(), padded, strict=True)
    ] == padded
