"""A verifier of the user's own: a class with the methods of :class:`bcpg_cluster.stages.verify.protocol.Verifier`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bcpg_cluster.errors import BcpgError
from bcpg_cluster.records import OutcomeStatus, Prompt, StopReason
from bcpg_cluster.stages.plugin import make_plugin, not_loadable, plugin_name
from bcpg_cluster.stages.verify.counts import REWARDED
from bcpg_cluster.stages.verify.protocol import SampleVerifier, Verification, Verifier

_WHAT = "verify.class"


class UserVerifier:
    """Asks it, in this process and without a time limit. What it raises over a response is a ``VERIFIER_ERROR``.

    Args:
        import_path: ``file.py:Name`` or ``package.module:Name``.
        options: its keyword arguments.
        digest: of the file's content; ``None`` takes any.

    Raises:
        ConfigError: it cannot be imported or made, or is no verifier.
    """

    def __init__(self, import_path: str, options: Mapping[str, Any], *, digest: str | None = None) -> None:
        self._plugin = plugin_name(import_path, _WHAT)
        self._verifier: Verifier = make_plugin(
            self._plugin, _WHAT, options, digest, needs=("verify", "check_gold", "close")
        )

    def verify(self, response: str, gold: str, stop_reason: StopReason) -> Verification:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`.

        Raises:
            ConfigError: it returned something else than a :class:`Verification`, or one that contradicts itself.
        """
        return self._checked(lambda: self._verifier.verify(response, gold, stop_reason))

    def verify_sample(self, response: str, prompt: Prompt, stop_reason: StopReason) -> Verification:
        """As :meth:`verify`; a verifier that reads the prompt is told it."""
        verifier = self._verifier
        if isinstance(verifier, SampleVerifier):
            return self._checked(lambda: verifier.verify_sample(response, prompt, stop_reason))
        return self.verify(response, prompt.answer, stop_reason)

    def _checked(self, ask: Callable[[], Verification]) -> Verification:
        try:
            found = ask()
        except BcpgError:
            raise
        except Exception as error:  # a user's verifier may raise anything
            return Verification(OutcomeStatus.VERIFIER_ERROR, None, why=f"{type(error).__name__}: {error}")
        if not isinstance(found, Verification):
            raise not_loadable(
                self._plugin,
                _WHAT,
                f"verify() returned a {type(found).__name__}, not a Verification (stages.verify.protocol)",
            )
        if (found.reward in (0.0, 1.0)) != (found.status in REWARDED) or (found.reward is None) == (
            found.status in REWARDED
        ):
            raise not_loadable(
                self._plugin,
                _WHAT,
                f"it gave status {found.status} with reward {found.reward!r}; {', '.join(REWARDED)} have a reward of 0 or 1, "
                "other statuses have none",
            )
        return found

    def check_gold(self, gold: str) -> None:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`. Raises ``ConfigError`` where it raises anything else."""
        try:
            self._verifier.check_gold(gold)
        except BcpgError:
            raise
        except Exception as error:  # likewise
            raise not_loadable(
                self._plugin, _WHAT, f"check_gold({gold!r:.80}) raised {type(error).__name__}: {error}"
            ) from error

    def close(self) -> None:
        """See :class:`bcpg_cluster.stages.verify.protocol.Verifier`."""
        self._verifier.close()
