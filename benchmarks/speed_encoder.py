"""Samples a second, one thread, as a share of the GEMM rate of the same moment: ours against the others."""

import argparse
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from speed_gemm import Paired, paired
from speed_networks import ARCHITECTURES
from speed_ours import TIMED, Ours
from speed_peers import Art, Loops, install_art
from speed_record import RAW, Ledger, publish, rows_table, sources

TITLES = {
    "literature": "plain loop of the literature",
    "art": "IBM ART 1.20.1",
    "tuned": "plain transformers tower, tuned",
    "eager": "**medrobust**, lean, eager",
    "compiled": "**medrobust**, lean, compiled",
}
BATCHES = {"vit-b32": (4, 8, 16, 32), "tiny": (8, 16, 32, 64), "builtin": (16, 32, 64, 128)}
TARGETS = {"vit-b32": "1.0", "tiny": "0.9", "builtin": "none set"}
PEERS = tuple(f"benchmarks/speed_{name}.py" for name in ("peers", "art", "networks", "gemm"))

Work = Callable[[int, int], Paired]  # draws, batch


class Contender(NamedTuple):
    """Somebody's way to draw samples, at one batch size."""

    who: str
    batch: int
    draws: int
    source: str
    work: Work


def encoder(arguments: argparse.Namespace) -> None:
    """Measure what is missing, round after round, then write."""
    torch.set_num_threads(arguments.threads)
    ledger = Ledger(RAW / "encoder.jsonl", fresh=arguments.fresh)
    if arguments.venv:
        install_art(arguments.venv)
    found = []
    for name in arguments.models:
        torch.compiler.reset()  # it would stop compiling after eight shapes
        with _Art(arguments.venv, name, arguments.threads) as art:
            contenders = list(_contenders(name, arguments.seconds, art))
            turns = itertools.product(range(arguments.rounds), contenders)
            found += [_measure(ledger, name, contender, number, arguments.threads) for number, contender in turns]
    results = [_result(found, *key) for key in dict.fromkeys((e["model"], e["who"], e["batch"]) for e in found)]
    publish("encoder", {"rounds": arguments.rounds, "results": results}, _table(results))


def _contenders(name: str, seconds: float, art: Work | None) -> Iterator[Contender]:
    ours, loops = functools.cache(lambda: Ours(name)), functools.cache(lambda: Loops(name))
    flops, mine, theirs = ARCHITECTURES[name].flops, sources(*TIMED), sources(*PEERS)

    def lean(compiled: bool) -> Work:
        return lambda draws, batch: paired(lambda: ours().certify(draws, batch, compiled=compiled))

    def tuned(draws: int, batch: int) -> Paired:
        return paired(lambda: loops().tuned(draws, batch))

    def literature(draws: int, batch: int) -> Paired:
        return paired(lambda: loops().literature(draws, batch))

    def draws(batch: int) -> int:
        return batch * max(1, -(-16 // batch), round(seconds * 60e9 / flops / batch))

    for batch in BATCHES[name]:
        yield Contender("eager", batch, draws(batch), mine, lean(False))
        yield Contender("compiled", batch, draws(batch), mine, lean(True))
        yield Contender("tuned", batch, draws(batch), theirs, tuned)
    yield Contender("literature", 100, draws(100), theirs, literature)
    for batch in sorted({*BATCHES[name][1:3], 32}) if art else ():
        yield Contender("art", batch, max(draws(batch), 2 * batch), theirs, art or literature)


def _measure(ledger: Ledger, name: str, contender: Contender, number: int, threads: int) -> dict[str, Any]:
    def measure() -> dict[str, Any]:
        batch = contender.batch if contender.source == sources(*TIMED) else 8  # ours may compile for each
        if (name, contender.who, batch) not in _warm:
            contender.work(max(2 * batch, 16), batch)
            _warm.add((name, contender.who, batch))
        return contender.work(contender.draws, contender.batch)._asdict()

    what = {"model": name, "who": contender.who, "batch": contender.batch, "draws": contender.draws}
    found = ledger.once({**what, "threads": threads, "source": contender.source, "round": number}, measure)
    return {**what, "timing": Paired(**found)}


_warm: set[tuple[str, str, int]] = set()


def _result(found: list[dict[str, Any]], model: str, who: str, batch: int) -> dict[str, Any]:
    timings = [e["timing"] for e in found if (e["model"], e["who"], e["batch"]) == (model, who, batch)]
    flops = ARCHITECTURES[model].flops
    shares = [timing.share(flops) for timing in timings]
    return {
        "model": model,
        "who": who,
        "batch": batch,
        "share": median(shares),
        "share_low": min(shares),
        "share_high": max(shares),
        "share_of_packed": median(timing.share_of_packed(flops) for timing in timings),
        "samples_per_second": median(timing.samples_per_second for timing in timings),
        "gemm_gflops": median(timing.mm_gflops for timing in timings),
    }


def best(results: list[dict[str, Any]], model: str, who: str) -> dict[str, Any] | None:
    """The batch size at which somebody was fastest."""
    of_them = [result for result in results if (result["model"], result["who"]) == (model, who)]
    return max(of_them, key=lambda result: result["share"], default=None)


def _table(results: list[dict[str, Any]]) -> str:
    parts = []
    for model in dict.fromkeys(result["model"] for result in results):
        plain = best(results, model, "literature")
        rows = []
        for who, title in TITLES.items():
            one = best(results, model, who)
            if one and plain:
                shares = f"{one['share']:.2f} ({one['share_low']:.2f}-{one['share_high']:.2f})"
                target = TARGETS[model] if who in ("eager", "compiled") else ""
                ratio = f"{one['share'] / plain['share']:.2f}"
                rows.append(
                    [title, str(one["batch"]), shares, target, f"{one['share_of_packed']:.2f}",
                     f"{one['samples_per_second']:,.0f}", ratio]
                )  # fmt: skip
        head = ["", "best batch", "share of GEMM", "target", "share of packed GEMM", "samples/s", "x plain loop"]
        shape = ARCHITECTURES[model]
        title = f"**{shape.title}** ({shape.flops / 1e9:.3g} GFLOP an image)"
        parts.append(f"{title}\n\n{rows_table(head, rows)}\n\n{_sweep(results, model)}")
    return "\n\n".join(parts)


def _sweep(results: list[dict[str, Any]], model: str) -> str:
    said = []
    for who in ("eager", "compiled", "tuned", "art"):
        of_them = sorted((r["batch"], r["share"]) for r in results if (r["model"], r["who"]) == (model, who))
        said.append(f"{who} " + ", ".join(f"{batch}: {share:.2f}" for batch, share in of_them))
    return "Share of GEMM by batch size: " + "; ".join(one for one in said if ":" in one) + "."


class _Art:
    """ART's worker, started when first asked and ended at the end; nothing without an environment for it."""

    def __init__(self, folder: Path | None, name: str, threads: int) -> None:
        self._folder, self._name, self._threads = folder, name, threads
        self._worker: Art | None = None

    def __enter__(self) -> Work | None:
        return self._work if self._folder else None

    def __exit__(self, *_: object) -> None:
        if self._worker:
            self._worker.close()

    def _work(self, draws: int, batch: int) -> Paired:
        if self._worker is None:
            if self._folder is None:
                raise RuntimeError("ART has no environment; pass --venv")
            self._worker = Art(self._folder, self._name, self._threads)
        return self._worker.measure(draws, batch)
