"""Shared by the scripts of tables: carry out a command of the product, keep its numbers, fill the page of Evidence."""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
EVIDENCE = ROOT / "docs" / "evidence"
DATA = EVIDENCE / "data"


def carry_out(done: Path, command: Sequence[str], *, dry: bool, home: Path | None = None, threads: int = 1) -> None:
    """Print one command, and run it with so many threads in the folder `home`, unless what it makes is there."""
    print(shlex.join(["medrobust", *command]) + "\n", end="", flush=True)  # in one piece, as two may run at a time
    if dry or done.exists():
        return
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "medrobust", *command], check=True, stdout=subprocess.DEVNULL, cwd=home,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
    )  # fmt: skip
    print(f"{command[0]} {done.parent.name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)


def fill(name: str, text: str, *, pages: Path = EVIDENCE) -> None:
    """Put the tables between the two marks `name`, on the page that has them; the words around are written by hand."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    marked = [path for path in sorted(pages.glob("*.md")) if begin in path.read_text(encoding="utf-8")]
    if len(marked) != 1:
        raise SystemExit(f"{len(marked)} pages in {pages} have the mark {begin}; one was expected")
    before, _, rest = marked[0].read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not closed:
        raise SystemExit(f"{marked[0].name} has the mark {begin} and no {end}")
    marked[0].write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def keep(name: str, found: Any) -> None:
    """Keep what a table was made from as docs/evidence/data/NAME.json."""
    DATA.mkdir(parents=True, exist_ok=True)
    (DATA / f"{name}.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def parser_of(description: str | None, out: str) -> argparse.ArgumentParser:
    """What the scripts that carry out commands of the product understand; runs go to runs/OUT."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEDROBUST_DATA", ".")))
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / out)
    parser.add_argument("--dry", action="store_true", help="print the commands alone")
    return parser
