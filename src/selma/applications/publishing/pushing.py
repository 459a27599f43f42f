"""Upload a run's merged adapter to a repository of the Hub, in one commit.

huggingface_hub takes the token (HF_TOKEN, or `hf auth login`); selma neither asks for it nor writes
it anywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from selma.applications.publishing.card import make_card, write_card
from selma.errors import ConfigError, PublishError
from selma.paths import AnyPath, as_path
from selma.texts import without_secrets

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Pushed:
    """The repository's files, or those that it would have."""

    repository: str
    files: dict[str, int]
    """Path in the repository → size in bytes."""
    url: str | None
    """The commit's; None if nothing was sent."""


def push(
    run: AnyPath,
    repository: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    licence: str | None = None,
) -> Pushed:
    """Write the card and upload it with adapter and gallery; with `dry_run`, only list the files
    and write nothing.

    Creates the repository if it does not exist. Raises ConfigError for an invalid name,
    PublishError if the Hub refuses or cannot be reached.
    """
    run = as_path(run)
    if not isinstance(repository, str) or not _REPOSITORY.fullmatch(repository):
        raise ConfigError(f"A repository is named owner/name, but {repository!r} came.")
    card = (make_card if dry_run else write_card)(run, repository=repository, licence=licence)
    files = {path.relative_to(card.folder).as_posix(): path for path in card.files}
    sizes = {name: len(data) for name, data in card.contents.items()}
    sizes = dict(sorted({**sizes, card.adapter.name: card.adapter.stat().st_size}.items()))
    if dry_run:
        return Pushed(repository, sizes, url=None)
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    operations = [CommitOperationAdd(name, path) for name, path in sorted(files.items())]
    api = HfApi(library_name="selma")
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.create_commit(
            repository, operations, commit_message=f"Merged adapter of {run.resolve().name}"
        )
    except Exception as error:  # many kinds: no net, no token, no right, refused metadata
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        reason = without_secrets(reason, filter(None, [get_token()]))
        raise PublishError(
            f"{repository} did not take the files: {reason} The Hub's token comes from HF_TOKEN or "
            "`hf auth login`; it needs the right to write there."
        ) from error
    return Pushed(repository, sizes, url=commit.commit_url)
