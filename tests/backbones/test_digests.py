"""What tells one file of weights from another, without reading gigabytes again."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest

from selma.backbones import hub


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "LARGE", 4)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"weights")
    return path


def asked_by_another_process(path: Path) -> str:
    hub._digest_once.cache_clear()
    return hub.file_digest(path)


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "selma" / "digests").glob("*"))


def test_a_large_file_is_read_once(large: Path, tmp_path: Path) -> None:
    assert asked_by_another_process(large) == sha256(b"weights").hexdigest()
    (record,) = kept(tmp_path)
    record.write_text("0" * 64)
    assert asked_by_another_process(large) == "0" * 64  # so it was not read


def test_a_damaged_record_is_made_again(large: Path, tmp_path: Path) -> None:
    asked_by_another_process(large)
    kept(tmp_path)[0].write_text("0" * 10)
    assert asked_by_another_process(large) == sha256(b"weights").hexdigest()


def test_a_change_is_seen_even_where_size_and_time_of_writing_stay(large: Path) -> None:
    before = large.stat()
    asked_by_another_process(large)
    large.write_bytes(b"WEIGHTS")
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert asked_by_another_process(large) == sha256(b"WEIGHTS").hexdigest()


def test_small_files_and_homes_without_rights_leave_no_record(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "LARGE", 100)
    asked_by_another_process(large)
    assert kept(tmp_path) == []
    monkeypatch.setattr(hub, "LARGE", 4)
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert asked_by_another_process(large) == sha256(b"weights").hexdigest()
