"""Whether two runs left the same artefacts, to the byte, whatever the versions call things.

    python bench/artefacts.py RUN OTHER

For a change that moves and renames, and must change nothing else: run the same config before and
after it, and compare the folders. Images and tensors are compared byte for byte. JSON is compared
by its values, in each row or file, since its keys may have been renamed. Files that name what made
them (manifests, plans, run.json), tell times (the journal) or show the rest (the report) are left
out. Exits 1 if anything differs or is in one of the folders only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

LEFT_OUT = {"manifest.json", "plan.json", "run.json", "journal.jsonl", ".lock", "progress.json"}
RENAMED = {"pictures": "images", "judged.json": "diagnostics.json"}
"""Parts of paths, old → new."""


def artefacts(run: Path) -> dict[str, Path]:
    """Path as it is called today → the file."""
    files = {}
    for path in sorted(run.rglob("*")):
        parts = path.relative_to(run).parts
        if path.is_file() and path.name not in LEFT_OUT and parts[0] not in ("6-report",):
            files[str(PurePosixPath(*(RENAMED.get(part, part) for part in parts)))] = path
    return files


def content(path: Path) -> Any:
    """The content of a file that must be equal."""
    if path.suffix == ".jsonl":
        rows = path.read_text("utf-8").splitlines()
        return [sorted(values(json.loads(row))) for row in rows]
    if path.suffix == ".json":
        return sorted(values(json.loads(path.read_text("utf-8"))))
    if path.suffix == ".safetensors":
        return tensors(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def values(value: Any) -> Iterator[str]:
    """All scalars inside, each as JSON, without their keys."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from values(part)
    else:
        yield json.dumps(value)


def tensors(path: Path) -> dict[str, Any]:
    """Name → type, shape and digest of each tensor; the header's own texts aside."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {
        name: (
            entry["dtype"],
            entry["shape"],
            hashlib.sha256(data[start:][slice(*entry["data_offsets"])]).hexdigest(),
        )
        for name, entry in header.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("other", type=Path)
    options = parser.parse_args()
    before, after = artefacts(options.run), artefacts(options.other)
    differences = [f"only in {options.run}: {name}" for name in before if name not in after]
    differences += [f"only in {options.other}: {name}" for name in after if name not in before]
    equal: Counter[str] = Counter()
    for name in before.keys() & after.keys():
        if content(before[name]) == content(after[name]):
            equal[Path(name).suffix] += 1
        else:
            differences.append(f"differs: {name}")
    for line in sorted(differences):
        print(line)
    counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(equal.items()))
    print(f"{sum(equal.values())} files equal ({counts}); {len(differences)} differences")
    return 1 if differences or not equal else 0


if __name__ == "__main__":
    sys.exit(main())
