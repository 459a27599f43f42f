"""Processes that start on one folder at the same moment, round after round.

    python tests/lock_starters.py FOLDER ROUNDS STARTERS fresh|dead

Prints one JSON object: rounds in which two were inside at once, rounds in which none was, and
errors other than a refusal. With `dead`, a process that is gone has left its lock's file.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from pathlib import Path

from selma.errors import WorkspaceError
from selma.workspace import Workspace

HELD_S = 0.002


def starter(root: Path, gate: int, out: int) -> None:
    row: list[float] | str = "refused"
    os.read(gate, 1)  # returns when the parent closes its end, for all starters at once
    try:
        with Workspace(root).locked():
            entered = time.monotonic()
            time.sleep(HELD_S)
            row = [entered, time.monotonic()]
    except WorkspaceError as error:
        if "in use by" not in str(error):
            row = repr(error)
    except BaseException as error:
        row = repr(error)
    os.write(out, json.dumps(row).encode() + b"\n")
    os._exit(0)


def one_round(root: Path, starters: int) -> list[list[float] | str]:
    gate, opens = os.pipe()
    results, out = os.pipe()
    pids = []
    for _ in range(starters):
        pid = os.fork()
        if pid == 0:
            os.close(opens)
            starter(root, gate, out)
        pids.append(pid)
    for descriptor in (gate, out, opens):
        os.close(descriptor)
    for pid in pids:
        os.waitpid(pid, 0)
    with os.fdopen(results) as lines:
        return [json.loads(line) for line in lines]


def main() -> None:
    root, rounds, starters, before = Path(sys.argv[1]), *map(int, sys.argv[2:4]), sys.argv[4]
    counts = {"two inside": 0, "none inside": 0, "refused": 0}
    errors: set[str] = set()
    for _ in range(rounds):
        (root / ".lock").unlink(missing_ok=True)
        if before == "dead":
            (root / ".lock").write_text('{"pid": 4194000, "host": "gone", "started": "1"}')
        rows = one_round(root, starters)
        spans = sorted(row for row in rows if isinstance(row, list))
        counts["two inside"] += any(
            later[0] < earlier[1] for earlier, later in itertools.pairwise(spans)
        )
        counts["none inside"] += not spans
        counts["refused"] += rows.count("refused")
        errors |= {row for row in rows if isinstance(row, str)} - {"refused"}
    print(json.dumps(counts | {"errors": sorted(errors)}))


if __name__ == "__main__":
    main()
