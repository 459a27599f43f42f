"""What is run on the first GPU: that it runs, and that it writes what it measured."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BENCH: dict[str, Any] = runpy.run_path(str(ROOT / "bench" / "gpu.py"), run_name="bench")


def test_it_runs_and_replaces_its_lines(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\nbefore\n")
    command = [sys.executable, str(ROOT / "bench/gpu.py"), "--device", "cpu", "--only", "B13"]
    subprocess.run(  # the others take minutes here
        [*command, "--out", str(page)],
        check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    text = page.read_text()
    assert BENCH["replaced"](text, "other") == (
        f"# Page\n\nbefore\n\n## On a GPU, by one command\n\n{BENCH['BEGIN']}\n\nother\n\n"
        f"{BENCH['END']}\n"
    )
    assert text.startswith("# Page\n\nbefore\n") and text.count(BENCH["BEGIN"]) == 1
    assert text.count("**: `") == 1 and "oft_step.py --model small" in text
    assert "failed" not in text and "not done" not in text


def test_what_lasts_too_long_or_fails_is_told() -> None:
    assert BENCH["ran"]("lora_step.py --size narrow", "cpu", 1) == "not done in 1 s"
    assert BENCH["ran"]("lora_step.py --size none", "cpu", 60).startswith("failed: ")


def test_every_bench_has_a_time_and_all_fit() -> None:
    assert sum(bench.seconds for bench in BENCH["BENCHES"]) <= BENCH["SECONDS"]
    for bench in BENCH["BENCHES"]:
        assert (ROOT / "bench" / bench.command.split()[0]).is_file()


def test_the_command_runs_the_tests_first() -> None:
    script = (ROOT / "bench" / "gpu.sh").read_text()
    assert script.index("pytest -m gpu") < script.index("bench/gpu.py")
    subprocess.run(["sh", "-n", str(ROOT / "bench" / "gpu.sh")], check=True)
