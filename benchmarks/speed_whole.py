"""Wall time of whole runs on real images: fixed against spending, one defence against five on one encoder."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from product import ROOT
from speed_record import RAW, Ledger, publish, rows_table, sources

DEFENCES = ("zero-shot", "vote", "coop", "promptsmooth", "pool")
DATA = {"data": "blood_pbc_28_subset.npz", "task": "bloodmnist"}
KINDS: dict[str, dict[str, Any]] = {
    "one defence, fixed": {"stopping": "fixed"},
    "five defences, fixed": {"stopping": "fixed", "five": True},
    "one defence, spending, r = 0.25": {"stopping": "spending", "radii": [0.25]},
    "five defences, spending, r = 0.25": {"stopping": "spending", "radii": [0.25], "five": True},
    "one defence, spending, 8 radii": {"stopping": "spending"},
}
BASE = "one defence, fixed"
TARGETS = {"five defences, fixed": "at most 1.05"}


def whole(arguments: argparse.Namespace) -> None:
    """Run what is missing, each kind in a process of its own, all kinds in turn, then again."""
    states = _states(arguments)
    ledger = Ledger(RAW / "whole.jsonl", fresh=arguments.fresh)
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    code = sources("src/medrobust/run.py", "src/medrobust/encoding.py", "src/medrobust/smoothing/certify.py")
    for number in range(arguments.rounds):
        for kind in KINDS:
            spec = _spec(kind, arguments, states)
            what = {"kind": kind, "n": arguments.n, "images": arguments.images, "threads": arguments.threads}
            key = {**what, "source": code, "round": number}
            found[kind].append(ledger.once(key, lambda spec=spec: _timed(spec)))  # type: ignore[misc]
    results = [_result(kind, found[kind], found[BASE]) for kind in KINDS]
    settings = {"n": arguments.n, "images": arguments.images, "rounds": arguments.rounds, "defences": DEFENCES}
    publish("whole", {**settings, "results": results}, _table(results))


def _spec(kind: str, arguments: argparse.Namespace, states: Path | None) -> dict[str, Any]:
    spec = {key: value for key, value in KINDS[kind].items() if key != "five"}
    names = DEFENCES if KINDS[kind].get("five") else DEFENCES[:1]
    chosen = [{"name": name, "state": _state(name, states) if states else None} for name in names]
    fixed = {**DATA, "n": arguments.n, "limit": arguments.images, "threads": arguments.threads}
    return {**fixed, **spec, "defences": chosen}


def _state(name: str, states: Path) -> str | None:
    path = states / f"{name}.safetensors"
    return str(path) if path.exists() else None


def _states(arguments: argparse.Namespace) -> Path:
    """What the five defences have learned, once; how long that takes is not what is measured."""
    out = RAW / "whole-states"
    if not (out / "certified.jsonl").exists():
        spec = {**DATA, "n": 100, "limit": 1, "stopping": "fixed", "threads": arguments.threads}
        _timed({**spec, "defences": list(DEFENCES)}, out)
    return out / "states"


def _timed(spec: dict[str, Any], out: Path | None = None) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        words = ["whole-run", json.dumps(spec), str(out or folder)]
        script = ROOT / "benchmarks" / "speed.py"
        answer = subprocess.run([sys.executable, script, *words], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def whole_run(arguments: argparse.Namespace) -> None:
    """One run in this process; prints its wall time, which includes loading, the integer tables and the report."""
    import torch
    from speed_gemm import paired

    from medrobust.jobs.experiment import Experiment
    from medrobust.jobs.run import run
    from medrobust.results import read_rows
    from medrobust.tell import Tell

    began = [0.0, 0.0]

    def progress(title: str, done: int, _total: int) -> None:
        if title == "certify":
            began[0] = began[0] or time.perf_counter()
            began[1] = time.perf_counter()
            began.append(done)

    def work() -> int:
        say = Tell(lambda text: print(text, file=sys.stderr, flush=True), progress)
        run(Experiment.model_validate(json.loads(arguments.spec)), arguments.out, tell=say)
        return 1

    torch.set_num_threads(json.loads(arguments.spec)["threads"])
    timing = paired(work)
    rows = read_rows(arguments.out / "certified.jsonl")
    drawn = [row.drawn for row in rows]
    one_image = (began[1] - began[0]) / max(1, len(began) - 3)  # from the end of the first image to that of the last
    print(json.dumps({**timing._asdict(), "seconds_an_image": one_image, "mean_draws": sum(drawn) / len(drawn)}))


def _result(kind: str, found: list[dict[str, Any]], base: list[dict[str, Any]]) -> dict[str, Any]:
    def ratios(what: str) -> list[float]:
        pairs = zip(found, base, strict=True)
        return [a[what] * a["mm_gflops"] / (b[what] * b["mm_gflops"]) for a, b in pairs]

    return {
        "kind": kind,
        "run_ratio": median(ratios("seconds")),
        "run_ratios": ratios("seconds"),
        "image_ratio": median(ratios("seconds_an_image")),
        "image_ratios": ratios("seconds_an_image"),
        "seconds": median(one["seconds"] for one in found),
        "mean_draws": median(one["mean_draws"] for one in found),
    }


def _table(results: list[dict[str, Any]]) -> str:
    rows = [
        [one["kind"], f"{one['run_ratio']:.3f}", f"{one['image_ratio']:.3f}", TARGETS.get(one["kind"], ""),
         f"{one['mean_draws']:,.0f}", f"{one['seconds']:.0f}"]
        for one in results
    ]  # fmt: skip
    head = ["run", "time of the run", "time of an image", "target", "mean draws a row", "seconds"]
    return rows_table(head, rows)
