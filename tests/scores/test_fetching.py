"""Files fetched from a real HTTP server: whole, checked, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from selma.cli import app
from selma.errors import ConfigError, DataError, FetchError, SelmaError
from selma.scores import benchmarks
from selma.scores.benchmarks import Benchmark, read_benchmark
from selma.scores.benchmarks.fetching import describe, fetch, fetchable, verify
from selma.scores.benchmarks.layouts import RemoteFile
from selma.scores.benchmarks.tifa import QUESTIONS, TEXTS, TIFA

TEXT_DATA = json.dumps([{"id": "a_1", "caption": "a red dog"}]).encode()
QUESTION_DATA = json.dumps(
    [
        {"id": "a_1", "caption": "a red dog", "question": "what?", "choices": ["dog", "cat"]}
        | {"answer": "dog", "element_type": "animal/human", "element": "dog"}
    ]
).encode()

Handle = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """What it answers to each path."""

    def __init__(self) -> None:
        self.pages: dict[str, Handle] = {}
        self.asked: list[str] = []
        self.url = ""


def gives(data: bytes, *, status: int = 200, length: int | None = None, **headers: str) -> Handle:
    def handle(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        if length != -1:
            request.send_header("Content-Length", str(len(data) if length is None else length))
        request.end_headers()
        request.wfile.write(data)

    return handle


def drips(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "9000")
    request.end_headers()
    for _ in range(100):
        request.wfile.write(b" ")
        request.wfile.flush()
        time.sleep(0.05)


def hangs(request: BaseHTTPRequestHandler) -> None:
    time.sleep(2)


@contextmanager
def serving() -> Iterator[Server]:
    site = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            site.pages[self.path](self)

        def log_message(self, *_: object) -> None:
            """Nothing: the test's own output matters more."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients may leave
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    site.pages = {f"/{TEXTS}": gives(TEXT_DATA), f"/{QUESTIONS}": gives(QUESTION_DATA)}
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as found:
        yield found


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def benchmark(site: Server, **changed: Any) -> Benchmark:
    """TIFA with this server's small files; the sum of the questions is not known, as of TIFA's."""
    about = {"max_bytes": 10_000, "sha256": None}
    files = (
        RemoteFile(TEXTS, f"{site.url}/{TEXTS}", sha256=sha(TEXT_DATA), max_bytes=10_000),
        RemoteFile(QUESTIONS, f"{site.url}/{QUESTIONS}", **about | changed),
    )
    return replace(TIFA, files=files)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_come_with_their_sums(site: Server, tmp_path: Path) -> None:
    found = fetch(benchmark(site), tmp_path / "to")
    assert [(f.path.name, f.sha256, f.pinned, f.new) for f in found] == [
        (TEXTS, sha(TEXT_DATA), True, True),
        (QUESTIONS, sha(QUESTION_DATA), False, True),
    ]
    assert names(tmp_path / "to") == sorted([TEXTS, QUESTIONS, f"{QUESTIONS}.sha256"])
    record = (tmp_path / "to" / f"{QUESTIONS}.sha256").read_text()
    assert record == f"{sha(QUESTION_DATA)}  {QUESTIONS}\n"  # as sha256sum reads it
    lines = "\n".join(describe(found))
    assert "is the file that selma knows" in lines and "no checksum" in lines
    assert sha(QUESTION_DATA) in lines
    (prompt,) = read_benchmark(tmp_path / "to")
    assert (prompt.id, prompt.questions[0].choices) == ("a_1", ("dog", "cat"))
    # What is there is not fetched again.
    assert [f.new for f in fetch(benchmark(site), tmp_path / "to")] == [False, False]
    assert len(site.asked) == 2
    assert [f.sha256 for f in verify(benchmark(site), tmp_path / "to")] == [f.sha256 for f in found]


def refused(site: Server, tmp_path: Path, message: str, **how: Any) -> None:
    """Fetching fails with this message and leaves nothing of the question file."""
    changed = {key: how.pop(key) for key in ("max_bytes", "sha256", "url") if key in how}
    row = benchmark(site, **{k: v for k, v in changed.items() if k != "url"})
    if "url" in changed:
        file = RemoteFile(QUESTIONS, changed["url"], sha256=None, max_bytes=10_000)
        row = replace(row, files=(file,))
    with pytest.raises(FetchError, match=message):
        fetch(row, tmp_path, **how)
    assert set(names(tmp_path)) <= {TEXTS}


HTML = b"<html><body>Please log in.</body></html>"
WRONG: dict[str, tuple[Handle, str]] = {
    "cut short": (gives(QUESTION_DATA[:50], length=len(QUESTION_DATA)), "cut short: 50 of"),
    "nothing of what was promised": (gives(b"", length=500), "cut short: 0 of 500"),
    "cut short without a length": (gives(QUESTION_DATA[:-9], length=-1), "is not the file"),
    "a page for people": (gives(HTML), "is not the file"),
    "empty": (gives(b""), "is not the file"),
    "another JSON": (gives(b'[{"id": 1}]'), "is not the file"),
    "texts for questions": (gives(TEXT_DATA), "is not the file"),
    "too large, as it says": (gives(b"[]", length=20_000), "at most 10000 bytes"),
    "too large, without saying": (gives(b"x" * 20_000, length=-1), "at most 10000 bytes"),
    "not there": (gives(b"no", status=404), "answered 404"),
    "out of order": (gives(b"no", status=503), "answered 503"),
    "leads elsewhere": (gives(b"", status=302, Location="ftp://host/file"), "ftp://host/file"),
    "leads to another host": (
        gives(b"", status=302, Location="http://127.0.0.2:9/file"),
        "leads to another server, http://127.0.0.2:9/file, which is not asked",
    ),
    "leads to another port": (
        gives(b"", status=302, Location="http://127.0.0.1:9/file"),
        "leads to another server, http://127.0.0.1:9/file, which is not asked",
    ),
    "leads to a file": (gives(b"", status=302, Location="file:///etc/passwd"), "not allowed"),
    "leads in a circle": (gives(b"", status=302, Location=f"/{QUESTIONS}"), "302"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_the_file_is_refused_whole(case: str, site: Server, tmp_path: Path) -> None:
    site.pages[f"/{QUESTIONS}"], message = WRONG[case]
    refused(site, tmp_path, message)


def test_a_wrong_sum_is_refused(site: Server, tmp_path: Path) -> None:
    refused(site, tmp_path, "must have the sha256", sha256="0" * 64)


def test_a_slow_or_silent_server_ends_in_time(site: Server, tmp_path: Path) -> None:
    site.pages[f"/{QUESTIONS}"] = drips
    began = time.monotonic()
    refused(site, tmp_path, "longer than 0.5 s", longest_s=0.5)
    site.pages[f"/{QUESTIONS}"] = hangs
    refused(site, tmp_path, "no answer in time", timeout_s=0.3)
    assert time.monotonic() - began < 4


def test_no_network_is_said_so(site: Server, tmp_path: Path) -> None:
    refused(site, tmp_path, "could not be fetched", url="http://127.0.0.1:9/file.json")
    refused(site, tmp_path, "may be no network", url="http://nowhere.invalid/file.json")
    refused(site, tmp_path, "by https", url="file:///etc/passwd")


def test_other_files_are_never_written_over(site: Server, tmp_path: Path) -> None:
    (tmp_path / TEXTS).write_text("mine")
    with pytest.raises(DataError, match="another file or damaged"):
        fetch(benchmark(site), tmp_path)
    (tmp_path / TEXTS).write_bytes(TEXT_DATA)
    (tmp_path / QUESTIONS).write_bytes(QUESTION_DATA)
    with pytest.raises(DataError, match="nothing tells whether it is whole"):
        fetch(benchmark(site), tmp_path)
    assert not site.asked


def test_verify_finds_a_single_bit(site: Server, tmp_path: Path) -> None:
    row = benchmark(site)
    fetch(row, tmp_path)
    for name in (TEXTS, QUESTIONS):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        with pytest.raises(DataError, match="damaged"):
            verify(row, tmp_path)
        (tmp_path / name).write_bytes(data)
    (tmp_path / TEXTS).unlink()
    with pytest.raises(DataError, match=r"is missing\. Run `selma data fetch tifa-v1\.0"):
        verify(row, tmp_path)


def test_what_is_offered_is_pinned() -> None:
    for name in ("dsg-1k", "tifa-v1.0"):
        for file in fetchable(name).files:
            assert file.url.startswith("https://raw.githubusercontent.com/")
            assert any(len(part) == 40 for part in file.url.split("/"))  # a commit, no branch
            assert file.sha256 is None or len(file.sha256) == 64
    with pytest.raises(ConfigError, match=r"dsg-1k, tifa-v1\.0"):
        fetchable("coco")


def test_the_commands(site: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(benchmarks.BENCHMARKS._rows, "tifa-v1.0", benchmark(site))
    to = tmp_path / "here"
    done = CliRunner().invoke(app, ["data", "fetch", "tifa-v1.0", "--to", str(to)])
    assert done.exit_code == 0 and "knows no checksum" in done.output
    done = CliRunner().invoke(app, ["data", "verify", "tifa-v1.0", "--folder", str(to)])
    assert done.exit_code == 0 and sha(QUESTION_DATA) in done.output
    site.pages[f"/{TEXTS}"] = gives(HTML)
    done = CliRunner().invoke(app, ["data", "fetch", "tifa-v1.0", "--to", str(tmp_path / "b")])
    assert isinstance(done.exception, FetchError) and done.exception.exit_code == 4


def test_a_file_known_to_git_alone_is_held_against_its_blob(site: Server, tmp_path: Path) -> None:
    # `git hash-object` of these bytes: SHA-1 of "blob <length>", a zero byte, and the bytes.
    header = f"blob {len(QUESTION_DATA)}\0".encode()
    blob = hashlib.sha1(header + QUESTION_DATA).hexdigest()
    (*_, found) = fetch(benchmark(site, git_blob=blob), tmp_path / "to")
    assert found.pinned and found.sha256 == sha(QUESTION_DATA)
    assert names(tmp_path / "to") == sorted([TEXTS, QUESTIONS]), "no sum has to be kept"
    assert all(
        f.pinned and not f.new for f in fetch(benchmark(site, git_blob=blob), tmp_path / "to")
    )
    (tmp_path / "to" / QUESTIONS).write_bytes(QUESTION_DATA + b" ")
    with pytest.raises(DataError, match="must be git's blob"):
        verify(benchmark(site, git_blob=blob), tmp_path / "to")
    with pytest.raises(FetchError, match="must have git's blob 0000"):
        fetch(benchmark(site, git_blob="0" * 40), tmp_path / "other")
    assert names(tmp_path / "other") == [TEXTS]


def test_files_may_lie_in_folders(site: Server, tmp_path: Path) -> None:
    site.pages["/data/a%2Bb.jsonl"] = gives(b"{}\n")
    row = benchmark(site)
    name = "test_prompts/a+b.jsonl"
    file = RemoteFile(name, f"{site.url}/data/a%2Bb.jsonl", sha256=sha(b"{}\n"), max_bytes=99)
    (found,) = fetch(replace(row, files=(file,)), tmp_path / "to")
    assert found.path == tmp_path / "to" / name and found.path.read_bytes() == b"{}\n"
    assert names(tmp_path / "to") == ["test_prompts"], "nothing is left of the download"
    broken = replace(file, sha256="0" * 64)
    with pytest.raises(FetchError, match="must have the sha256 0000"):
        fetch(replace(row, files=(broken,)), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_download_that_fails_leaves_no_empty_folder(site: Server, tmp_path: Path) -> None:
    gone = replace(benchmark(site).files[0], url="http://127.0.0.1:9/file.json")
    row = replace(benchmark(site), files=(replace(gone, name="in/a/folder.json"),))
    with pytest.raises(FetchError, match="Nothing was written"):
        fetch(row, tmp_path / "data" / "to")
    assert names(tmp_path) == []
    (tmp_path / "mine").mkdir()
    with pytest.raises(FetchError):
        fetch(row, tmp_path / "mine" / "to")
    with pytest.raises(FetchError):
        fetch(row, tmp_path / "mine")
    assert names(tmp_path) == ["mine"], "what was there stays"


def test_every_benchmark_is_listed_with_address_and_licence() -> None:
    shown = CliRunner().invoke(app, ["data", "list"])
    assert shown.exit_code == 0
    starts = [line.split(":")[0] for line in shown.output.splitlines() if line[:1].strip()]
    offered = "dsg-1k tifa-v1.0 dpg-bench geneval-2 genai-bench tiif oneig t2i-compbench"
    assert set(offered.split()) <= set(starts)
    assert "CC BY-NC 4.0: not for commercial use" in shown.output
    assert shown.output.count("licence:") == shown.output.count("source:") == len(starts)
    for name in offered.split():
        row = fetchable(name)
        assert row.files[0].url in shown.output
        assert row.licence and row.source and all(f.url.startswith("https://") for f in row.files)


def test_nothing_outside_the_folder_is_touched(site: Server, tmp_path: Path) -> None:
    """Where a download lies while it comes, no link of others leads."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "folder").mkdir()
    kept = tmp_path / "victim" / TEXTS
    kept.write_text("precious")
    (tmp_path / "folder" / ".partial").symlink_to("../victim")
    site.pages.clear()
    with pytest.raises(FetchError):
        fetch(benchmark(site), tmp_path / "folder")
    assert kept.read_text() == "precious"
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {".partial"}


@pytest.mark.parametrize("name", ["dsg-1k-anns.csv", "genai_image.json"])
def test_a_pipe_is_refused_and_not_waited_for(name: str, tmp_path: Path) -> None:
    benchmark = fetchable("dsg-1k" if name.startswith("dsg") else "genai-bench")
    path = tmp_path / name
    if benchmark.files[0].sha256 is None:
        path.write_text("{}")
        path = tmp_path / f"{name}.sha256"
    os.mkfifo(path)
    with pytest.raises(SelmaError, match=r"must be a regular file|nothing tells"):
        verify(benchmark, tmp_path)
