"""Raw timings that survive an interruption, and results as a JSON file and a table in docs/evidence."""

import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from product import DATA, ROOT, fill

RAW = ROOT / "runs" / "speed"


class Ledger:
    """One line a measurement, under what was measured; what is there already is not measured again."""

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            path.unlink(missing_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self._known: dict[str, dict[str, Any]] = {e["key"]: e["found"] for e in map(json.loads, lines)}

    def once(self, what: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The measurement of `what`, from the file or made now."""
        key = json.dumps(what, sort_keys=True)
        if key not in self._known:
            self._known[key] = measure()
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "found": self._known[key]}) + "\n")
            print(f"{' '.join(map(str, what.values()))}: {_short(self._known[key])}", file=sys.stderr, flush=True)
        return self._known[key]


def sources(*paths: str) -> str:
    """A digest of the code that is timed (paths below the repository): a change of it is another measurement."""
    return hashlib.sha256(b"".join((ROOT / path).read_bytes() for path in paths)).hexdigest()[:12]


def publish(part: str, found: dict[str, Any], table: str) -> None:
    """Write docs/evidence/data/speed-PART.json, and the table between its marks in docs/evidence."""
    whole = {"command": command(), "environment": environment(), **found}
    path = DATA / f"speed-{part}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    text = f"```bash\n{command()}\n```\n\n{table}"
    fill(f"speed {part}", text)
    print(text)


def command() -> str:
    """What was typed, without anybody's folders."""
    words = ["FOLDER" if os.sep in word else word for word in sys.argv[1:]]
    data = "MEDROBUST_DATA=FOLDER " if words[:1] in (["replay"], ["whole"]) else ""
    return f"{data}python benchmarks/speed.py {' '.join(words)}"


def environment() -> dict[str, Any]:
    """What the figures were measured on and with."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "numpy", "scipy", "medrobust")},
    }


def rows_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its first column of words, the others of figures."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "not known")


def _short(found: dict[str, Any]) -> str:
    return " ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in found.items())
