"""What travels: its dtype, and the digest that proves it."""

from __future__ import annotations

import pytest
import torch

from bcpg_cluster.stages.push import wire
from bcpg_cluster.stages.push.wire import as_sent, sent_dtype, wire_digest, wire_dtype


@pytest.mark.parametrize(
    ("engine", "sent"),
    [
        ("bfloat16", "bfloat16"),
        ("float16", "float16"),
        ("half", "float16"),
        ("float32", "float32"),
        ("float", "float32"),
        ("auto", "float32"),  # the engine alone knows what that is
        (None, "float32"),
        (torch.bfloat16, "float32"),
    ],
)
def test_matrices_travel_in_the_dtype_of_the_engine(engine: object, sent: str) -> None:
    assert wire_dtype(engine) == sent


def test_vectors_stay_in_float32() -> None:
    assert [sent_dtype("bfloat16", shape) for shape in ((), (3,), (3, 4), (2, 3, 4))] == [
        "float32",
        "float32",
        "bfloat16",
        "bfloat16",
    ]
    assert as_sent(torch.ones(3), "bfloat16").dtype is torch.float32
    matrix = torch.tensor([[1.0 + 2**-8, 1.0 + 3 * 2**-8]])  # halfway between two bfloat16: to the even one
    assert as_sent(matrix, "bfloat16").tolist() == [[1.0, 1.0 + 2**-6]]
    assert as_sent(matrix, "float32") is not None
    assert torch.equal(as_sent(matrix, "float32"), matrix)


def test_a_digest_is_of_dtype_shape_and_every_bit() -> None:
    tensor = torch.randn(257, 129, generator=torch.Generator().manual_seed(0))
    digest = wire_digest(tensor)
    assert len(digest) == 32  # 128 bits
    assert digest == wire_digest(tensor.clone())
    assert digest == wire_digest(tensor.T.contiguous().T)  # how it lies in memory is not part of it
    others = [tensor.T, tensor.reshape(-1), tensor.view(torch.int32), tensor.bfloat16(), tensor[:-1]]
    for byte in (0, 257 * 129 * 2, 257 * 129 * 4 - 1):
        changed = tensor.clone()
        changed.view(-1).view(torch.uint8)[byte] ^= 1
        others.append(changed)
    assert len({digest, *map(wire_digest, others)}) == 1 + len(others)
    assert wire_digest(torch.zeros(0, 4)) != wire_digest(torch.zeros(0, 5))


def test_a_digest_is_the_same_in_other_programs() -> None:
    """Rank, snapshot's writer and engine are different processes, maybe of different versions: the definition must not drift."""
    assert wire_digest(torch.arange(6, dtype=torch.float32).reshape(2, 3)) == "809507b88b2b8fec790fe62abb4c5872"


def test_what_lies_elsewhere_is_digested_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere:
        """Bytes of a device whose tensors have to be copied to the host."""

        device = torch.device("cuda")
        is_cuda = False  # nothing to pin memory for

        def __init__(self, data: torch.Tensor) -> None:
            self.data = data

        def numel(self) -> int:
            return self.data.numel()

        def __getitem__(self, key: slice) -> torch.Tensor:
            return self.data[key]

    monkeypatch.setattr(wire, "_PIECE_BYTES", 48)
    flat = torch.arange(200, dtype=torch.uint8)
    pieces = [piece.clone() for piece in wire._on_the_host(Elsewhere(flat))]  # type: ignore[arg-type]
    assert [piece.numel() for piece in pieces] == [48, 48, 48, 48, 8]
    assert torch.equal(torch.cat(pieces), flat)
