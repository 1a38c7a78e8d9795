"""What m prompt sets cost in one pass over the noise, as a ratio to one; the literature makes m passes."""

import argparse
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from speed_gemm import Paired, paired
from speed_networks import ARCHITECTURES, picture
from speed_ours import TIMED, Ours, Stored, certified, with_heads
from speed_record import RAW, Ledger, publish, rows_table, sources

from medrobust.smoothing.sampling import Sampler

BATCHES = {"vit-b32": 16, "tiny": 32, "builtin": 64}
COUNTS = (1, 10, 100, 1000)
DRAWS = 10_000


def prompts(arguments: argparse.Namespace) -> None:
    """Measure by parts (both models) and whole certificates (the small one)."""
    torch.set_num_threads(arguments.threads)
    ledger = Ledger(RAW / "prompts.jsonl", fresh=arguments.fresh)
    results = []
    for name in arguments.models:
        torch.compiler.reset()
        results += _by_parts(ledger, name, arguments)
        if name != "vit-b32":
            results += _whole(ledger, name, arguments)
    publish("prompts", {"draws": DRAWS, "rounds": arguments.rounds, "results": results}, _table(results))


def _by_parts(ledger: Ledger, name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Encoder time of a few draws, and all that m heads add to a whole certificate of 10,000 stored features."""
    ours, batch = Ours(name), BATCHES[name]
    compiled = not arguments.eager
    few = max(batch, 16) * (2 if name == "vit-b32" else 40)
    sampler = ours.sampler(batch, compiled=compiled)
    one = with_heads(ours.clip.encode_image, ARCHITECTURES[name].dim, 1)
    encoding = _timings(ledger, name, 1, "encode", lambda: certified(one, picture(name), sampler, few), arguments)
    adding = {}
    for count in COUNTS:
        heads = with_heads(ours.clip.encode_image, ARCHITECTURES[name].dim, count)
        features = torch.randn(batch, ARCHITECTURES[name].dim, generator=torch.Generator().manual_seed(4))
        stored = Sampler(batch, lambda _encode, _image, known=features: Stored(known))  # type: ignore[misc]
        work = _counting(heads, name, stored)
        adding[count] = _timings(ledger, name, count, "stored", work, arguments)
    each = median(_relative(timing) / timing.samples for timing in encoding) * (DRAWS + batch)
    base = median(map(_relative, adding[1]))
    return [_result(name, m, "by parts", [(each + _relative(t) - base) / each for t in adding[m]]) for m in COUNTS]


def _whole(ledger: Ledger, name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Whole certificates of 10,000 draws, each beside one of a single prompt set."""
    ours, batch = Ours(name), BATCHES[name]
    sampler = ours.sampler(batch, compiled=not arguments.eager)
    found = {}
    for count in COUNTS:
        heads = with_heads(ours.clip.encode_image, ARCHITECTURES[name].dim, count)
        found[count] = _counting(heads, name, sampler)
    timings: dict[int, list[Paired]] = {count: [] for count in COUNTS}
    for number in range(arguments.rounds):
        for count in COUNTS:
            timings[count] += _timings(ledger, name, count, "whole", found[count], arguments, only=number)
    ratios = {m: [_relative(a) / _relative(b) for a, b in zip(timings[m], timings[1], strict=True)] for m in COUNTS}
    return [_result(name, m, "whole", ratios[m]) for m in COUNTS]


def _counting(heads: list[Any], name: str, sampler: Sampler) -> Callable[[], int]:
    return lambda: certified(heads, picture(name), sampler, DRAWS)


def _timings(
    ledger: Ledger,
    name: str,
    count: int,
    what: str,
    work: Callable[[], int],
    arguments: argparse.Namespace,
    only: int | None = None,
) -> list[Paired]:
    key = {"model": name, "heads": count, "what": what, "threads": arguments.threads, "eager": arguments.eager}
    found = []
    for number in range(arguments.rounds) if only is None else [only]:

        def measure() -> dict[str, Any]:
            if (name, count, what) not in _warm:
                _warm.add((name, count, what))
                if what != "whole" or count == 1:  # the others run what these have compiled
                    work()
            return paired(work)._asdict()

        found.append(Paired(**ledger.once({**key, "source": sources(*TIMED), "round": number}, measure)))
    return found


_warm: set[tuple[str, int, str]] = set()


def _relative(timing: Paired) -> float:
    """Time in units of the GEMM of the same moment."""
    return timing.seconds * timing.mm_gflops


def _result(name: str, heads: int, how: str, ratios: list[float]) -> dict[str, Any]:
    return {
        "model": name, "prompt_sets": heads, "how": how, "ratio": median(ratios), "low": min(ratios),
        "high": max(ratios),
    }  # fmt: skip


def _table(results: list[dict[str, Any]]) -> str:
    rows = []
    for name, how in dict.fromkeys((result["model"], result["how"]) for result in results):
        ratios = {r["prompt_sets"]: r for r in results if (r["model"], r["how"]) == (name, how)}
        cells = [f"{ratios[m]['ratio']:.4f} ({ratios[m]['low']:.3f}-{ratios[m]['high']:.3f})" for m in COUNTS]
        rows.append([f"{ARCHITECTURES[name].title}, {how}", *cells])
    rows.append(["target", "", "", "at most 1.01", ""])
    rows.append(["literature: a pass for each", *(f"{m:,}" for m in COUNTS)])
    return rows_table(["", *(f"m = {m:,}" for m in COUNTS)], rows)
