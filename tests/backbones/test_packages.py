"""What rows of judges, scorers and language models say of their settings before a run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from selma import toybox
from selma.backbones.judges.loading import JUDGES, JudgeKind, load_judge, load_scorer
from selma.backbones.language.loading import LanguageKind
from selma.backbones.packages import CheckedKind
from selma.backbones.perception.locating import ToyboxLocator
from selma.backbones.perception.segmenting import load_segmenter
from selma.backbones.preference.scorers import ScorerKind
from selma.config.section import Section
from selma.errors import ModelError


def look(settings: Any, key: str) -> Iterator[str]:
    yield f"{key}.size: must be even."
    raise ModelError("The folder is empty.")


def no_row(*_: Any) -> Any:
    pytest.fail("loaded")


ROWS: tuple[CheckedKind, ...] = (
    JudgeKind("odd", no_row, look=look, package="no_such_package", install="selma[odd]"),
    ScorerKind("odd", no_row, look=look, package="no_such_package", install="selma[odd]"),
    LanguageKind(
        name="odd",
        settings=Section,
        load=no_row,
        identity=no_row,
        parallel=no_row,
        look=look,
        package="no_such_package",
        install="selma[odd]",
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row).__name__)
def test_mistakes_and_packages_are_told_without_loading(row: CheckedKind) -> None:
    assert [*row.mistakes(None, "part")] == [
        "part.size: must be even.",
        "The folder is empty.",
        "part: needs the package no_such_package: pip install 'selma[odd]'.",
    ]


@pytest.mark.parametrize(
    ("part", "load"),
    [
        ("judge-a", lambda: load_judge("toybox-a")),
        ("judge-b", lambda: load_judge("toybox-b")),
        ("clip", lambda: load_scorer("toybox")),
        ("reader", lambda: ToyboxLocator()),
        ("segmenter", lambda: load_segmenter("toybox", revision=None, device="cpu", setting="x")),
    ],
)
def test_weights_of_toybox_that_are_not_there(
    part: str, load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toybox, "weights_folder", lambda: tmp_path)
    message = (
        f"toybox's {part} must have its weights in {tmp_path / part}, but there are none. "
        "Reinstall selma, or make them with python -m selma.toybox.pretraining "
        f"--only {part} --work FOLDER."
    )
    with pytest.raises(ModelError) as raised:
        load()
    assert str(raised.value) == message
    if part.startswith("judge"):
        name = f"toybox-{part[-1]}"
        assert [*JUDGES[name].mistakes(name, "scores.judge")] == [f"scores.judge: {message}"]
