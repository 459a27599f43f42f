"""Commits of Hub repositories, where the Hub can and cannot be reached."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from selma.backbones.hub import UNKNOWN, commits_or_unknown, hub_commit
from selma.errors import ModelError


def test_a_commit_that_cannot_be_had_is_an_error_or_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def unreachable(model: str, **_: object) -> None:
        asked.append(model)
        raise OSError("no net")

    monkeypatch.setattr("huggingface_hub.model_info", unreachable)
    with commits_or_unknown() as reasons:
        for _ in range(3):
            assert hub_commit("some/lost", None, setting="base.model") == UNKNOWN
        assert hub_commit("some/pinned", "a" * 40, setting="base.model") == "a" * 40
    assert asked == ["some/lost"]  # of what is lost the Hub is asked once
    assert list(reasons) == ["some/lost"] and "no net" in reasons["some/lost"]
    with pytest.raises(ModelError, match="cannot be found on the Hub or in its cache: no net"):
        hub_commit("some/lost", None, setting="base.model")
    monkeypatch.setattr("huggingface_hub.model_info", lambda *_, **__: SimpleNamespace(sha="b"))
    assert hub_commit("some/lost", None, setting="base.model") == "b"  # back again
