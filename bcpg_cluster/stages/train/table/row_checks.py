"""What a row must have before it is trained on."""

from __future__ import annotations

from collections.abc import Mapping

from bcpg_cluster.errors import DataError
from bcpg_cluster.stages.train.objective import Objective
from bcpg_cluster.stages.train.protocol import TrainRow

_EVERY_TOKEN = "a training row has response tokens, and one of each of the others for every token"
_SAME_ROWS = "compute the reference log-probs with reference_logprobs() on these very rows"


def check_row(index: int, row: TrainRow, objective: Objective) -> None:
    """Raise DataError where row ``index`` lacks what the objective needs."""
    reference = row.reference
    if reference is None:
        raise unreferenced(index)
    check_response(
        index,
        {
            "tokens": len(row.token_ids),
            "weights": len(row.token_weights),
            "mined flags": len(row.mined),
            "reference log-probs": len(reference.response),
        },
    )
    check_rival(index, len(row.rival_token_ids), len(reference.rival))
    if objective.rows == "pairs" and not row.rival_token_ids:
        raise unpaired(index, objective)


def check_response(index: int, lengths: Mapping[str, int]) -> None:
    """Raise DataError where what row ``index`` has of its response, counted by name, is not as many of each, or nothing."""
    if len(set(lengths.values())) != 1 or not all(lengths.values()):
        raise DataError(
            f"row {index}: {', '.join(f'{count} {name}' for name, count in lengths.items())}",
            rule=_EVERY_TOKEN,
            remedy=_SAME_ROWS,
        )


def check_rival(index: int, num_tokens: int, num_reference: int) -> None:
    """Raise DataError where the rival of row ``index`` has another number of reference log-probs than of tokens."""
    if num_tokens != num_reference:
        raise DataError(
            f"row {index}: a rival of {num_tokens} tokens, {num_reference} reference log-probs",
            rule="a rival has a reference log-prob for each of its tokens",
            remedy=_SAME_ROWS,
        )


def unreferenced(index: int) -> DataError:
    """What to say of a row without reference."""
    return DataError(
        f"row {index} has no reference log-probs",
        rule="a training row has a reference log-prob for each of its tokens",
        remedy="compute them with reference_logprobs() before train()",
    )


def unpaired(index: int, objective: Objective) -> DataError:
    """What to say of a row without rival where the objective trains on pairs."""
    return DataError(
        f"row {index} has no rival",
        rule=f"the objective {objective.name!r} trains on pairs of a right and a wrong response",
        remedy="weigh the round again with this objective",
    )
