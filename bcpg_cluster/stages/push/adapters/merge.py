"""The merge of adapters into weights: one function for trainers and engines, and rounds of them over a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from bcpg_cluster.errors import PushError
from bcpg_cluster.stages.push.adapters.versions import DOWN, UP


def merged(weight: Tensor, down: Tensor, up: Tensor, scaling: float) -> Tensor:
    """W + scaling B A [out, in], in fp32 whatever the dtypes."""
    return weight.float().addmm(up.float(), down.float(), alpha=scaling)


@dataclass(frozen=True, slots=True)
class AdapterSet:
    """One round's adapters: A [rank, in] and B [out, rank] by the checkpoint name of the weight they change."""

    matrices: Mapping[str, tuple[Tensor, Tensor]]
    scaling: float

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], scaling: float) -> AdapterSet:
        """Pair up what arrived.

        Raises:
            PushError: a tensor that is no adapter's, or an adapter with one matrix.
        """
        stems = {name.removesuffix(DOWN).removesuffix(UP) for name in tensors}
        wanted = {f"{stem}{end}" for stem in stems for end in (DOWN, UP)}
        if not tensors or (odd := sorted(wanted ^ set(tensors))):
            raise PushError(f"these are no adapters, or not whole ones: {odd[:3] if tensors else 'nothing arrived'}")
        return cls({f"{stem}.weight": (tensors[stem + DOWN], tensors[stem + UP]) for stem in stems}, scaling)


def merge_into(checkpoint: Iterable[tuple[str, Tensor]], sets: Sequence[AdapterSet]) -> Iterator[tuple[str, Tensor]]:
    """The checkpoint's tensors with all sets merged in, oldest first; one that no adapter changes as it is.

    Raises:
        PushError: an adapter of a weight that the checkpoint does not have. Raised when all tensors are through.
    """
    left = {name for of_round in sets for name in of_round.matrices}
    for name, tensor in checkpoint:
        left.discard(name)
        for of_round in sets:
            if name in of_round.matrices:
                down, up = of_round.matrices[name]
                tensor = merged(tensor, down, up, of_round.scaling)
        yield name, tensor
    if left:
        raise PushError(f"{len(left)} adapters are of weights that the checkpoint lacks, e.g. {min(left)}")
