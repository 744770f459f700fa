"""An exported directory on the Hugging Face hub: asked first whether it can go there, then sent as one commit.

The token is huggingface_hub's own (``hf auth login``, or ``HF_TOKEN``) and appears in no message.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bcpg_cluster.errors import UserError

_WRITES = "a push needs a token that may write to the repository"


@dataclass(frozen=True, slots=True)
class HubTarget:
    """A model repository on a hub.

    Attributes:
        repo_id: ``OWNER/NAME``, or ``NAME`` for one of the token's owner.
        private: make it so that only its owner sees it; ``False`` leaves that to the hub's default.
        endpoint: the hub's address; ``None`` is huggingface_hub's (``HF_ENDPOINT``).
    """

    repo_id: str
    private: bool = False
    endpoint: str | None = None

    def check(self) -> None:
        """Ask the hub whether a push can work. Changes nothing.

        Raises:
            UserError: there is no token, the name is invalid, the hub cannot be reached or refuses the token, or the repository is
                public and was asked to be private.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        with self._told():
            api = self._api()
            api.whoami()
            try:
                is_public = api.model_info(self.repo_id).private is False
            except RepositoryNotFoundError:  # it will be made
                return
        if self.private and is_public:
            raise UserError(
                f"{self.repo_id} exists on the hub and is public",
                rule="--private pushes to a repository that only its owner sees",
                remedy="give another name, make that repository private first, or leave --private out",
            )

    def push(self, directory: Path, message: str) -> str:
        """Send all files of a directory as one commit, to a repository that is made where there is none.

        Returns:
            The commit's address.

        Raises:
            UserError: the hub refuses, or cannot be reached; nothing was committed then.
        """
        with self._told(directory):
            api = self._api()
            api.create_repo(self.repo_id, private=self.private or None, exist_ok=True)
            done = api.upload_folder(repo_id=self.repo_id, folder_path=directory, commit_message=message)
        return str(done.commit_url)

    def _api(self) -> Any:
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.utils import validate_repo_id

        validate_repo_id(self.repo_id)
        if not get_token():
            raise UserError(
                f"there is no token to push to {self.repo_id} with",
                rule=_WRITES,
                remedy="log in with `hf auth login`, or set HF_TOKEN",
            )
        return HfApi(endpoint=self.endpoint)

    @contextmanager
    def _told(self, directory: Path | None = None) -> Iterator[None]:
        """Say what the hub's client raises in words. ``directory``: what was written here before."""
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled

        try:
            yield
        except HFValidationError as error:
            raise UserError(
                f"{self.repo_id!r} is no name on the hub: {error}",
                rule="--push-to-hub names a model repository, OWNER/NAME",
                remedy="e.g. --push-to-hub me/my-policy",
            ) from None
        except OfflineModeIsEnabled:
            raise self._refused(
                "the hub cannot be asked: offline mode is on", "a push needs the hub", "unset HF_HUB_OFFLINE", directory
            ) from None
        except HfHubHTTPError as error:
            raise self._refused(*self._answer(error), directory) from None
        except ValueError as error:  # what huggingface_hub makes of a card whose head the hub does not take
            if directory is None:  # no card was sent yet: an answer that is not the hub's
                raise self._refused(
                    f"the hub's answer cannot be read: {self._public(error)}",
                    "a push needs the hub",
                    "check HF_ENDPOINT and any proxy, and try again",
                    None,
                ) from None
            raise self._refused(
                f"the hub does not take the model card: {self._public(error)}",
                "the card's head is in the hub's words (https://huggingface.co/docs/hub/model-cards)",
                "correct it; licences are those of https://huggingface.co/docs/hub/repositories-licenses (--license)",
                directory,
            ) from None
        except (HTTPError, OSError) as error:
            raise self._refused(
                f"the hub cannot be reached: {self._public(error)}",
                "a push needs the hub",
                "check the network and HF_ENDPOINT, and try again",
                directory,
            ) from None

    def _answer(self, error: Any) -> tuple[str, str, str]:
        """Problem, rule and remedy of an answer that says no."""
        code = error.response.status_code
        if code == 401:
            return (
                f"the hub does not know the token ({code})",
                _WRITES,
                "log in again with `hf auth login`, or set HF_TOKEN",
            )
        if code == 403:
            return (
                f"the token may not write to {self.repo_id} ({code})",
                _WRITES,
                "use a token with write access, or name a repository of yours",
            )
        said = f"the hub refused the push to {self.repo_id} ({code}): {self._public(error)}"
        return said, "the hub takes a push or says why not", "correct what it names, or try again later"

    def _public(self, error: BaseException) -> str:
        """An error's text, without the token should it be there."""
        from huggingface_hub import get_token

        token, text = get_token(), " ".join(str(error).split()) or type(error).__name__
        return (text.replace(token, "***") if token else text)[:300]

    def _refused(self, problem: str, rule: str, remedy: str, directory: Path | None) -> UserError:
        if directory is None:
            return UserError(problem, rule=rule, remedy=remedy)
        private = " --private" if self.private else ""
        then = f"{directory} is complete and nothing was committed; then run `hf upload {self.repo_id} {directory} .{private}`"
        return UserError(problem, rule=rule, remedy=f"{remedy}; {then}")
