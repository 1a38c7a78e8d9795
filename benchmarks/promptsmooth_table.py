"""Certified accuracy of PromptSmooth and its sound relatives on real blood cells and chest X-rays.

    MEDROBUST_DATA=FOLDER python benchmarks/promptsmooth_table.py
    MEDROBUST_DATA=FOLDER python benchmarks/promptsmooth_table.py --rows zero-shot "++ few-shot" --out FOLDER
    MEDROBUST_DATA=FOLDER python benchmarks/promptsmooth_table.py --both-towers --images 100

Runs one experiment a data set (they resume where they stopped), and fills docs/evidence/promptsmooth.md.
With --rows, only those defences are run, and their tables are printed: the page stays as it is. With --both-towers,
the rows of PromptSmooth and PromptSmooth++ at sigma 0.25 and 0.5, in docs/evidence/both-towers.md.
FOLDER holds blood_pbc_28_subset.npz and pneumoniamnist_subset.npz, or official MedMNIST files named with --blood and
--chest. Settings are those of `SETTINGS`, chosen by benchmarks/search_settings.py on the validation splits.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from product import ROOT, fill, keep

from medrobust.jobs.bench import certify_of
from medrobust.jobs.experiment import Choice, Experiment
from medrobust.jobs.parts import CertifySettings
from medrobust.jobs.run import run
from medrobust.machine import use_threads
from medrobust.results import CertifiedRow, RunSummary, paired_gain, read_rows
from medrobust.results.markdown import table_line
from medrobust.results.sections.certificates import markdown_table
from medrobust.tell import Tell
from medrobust.words import percent

SETTINGS = Path(__file__).with_name("promptsmooth_settings.yaml")
TITLES = {"blood": "Blood cells, 28 px (8 classes)", "chest": "Chest X-rays, 28 px (2 classes)"}
TASKS = {"blood": "bloodmnist", "chest": "pneumoniamnist"}
TEXT = ["zero-shot", "few-shot", "combined, lr 0.005"]
BOTH = ["zero-shot", "++ few-shot", "++ combined", "++ tuned zero-shot", "++ tuned zero-shot, lr 0.005"]
COMPARED = ((0.25, 0.25), (0.25, 0.5), (0.5, 0.25), (0.5, 0.5))  # sigma, radius


def main() -> None:
    """Run what is missing, then write the page."""
    arguments = _arguments()
    if arguments.both_towers:
        _both_towers(arguments)
        return
    parts = []
    for name in arguments.sets:
        summary, rows, experiment = _carried_out(name, arguments, arguments.rows, arguments.out / name)
        parts.append(_section(name, summary, rows, experiment))
        if arguments.rows:
            print(parts[-1], flush=True)
        else:
            keep(f"promptsmooth-{name}", summary.to_json())
    if not arguments.rows:
        fill("promptsmooth tables", "\n\n".join(parts))


def _both_towers(arguments: argparse.Namespace) -> None:
    """Prompts of the text alone share one pass over the noise; the others, one each, are a run of their own."""
    arguments.sigmas, parts = [0.25, 0.5], []
    for name in arguments.sets:
        text, rows, _ = _carried_out(name, arguments, TEXT, arguments.out / f"{name}-text")
        both, more, _ = _carried_out(name, arguments, BOTH, arguments.out / name)
        keep(f"promptsmooth-both-{name}", both.to_json())
        parts.append(_short(name, [text, both], [*rows, *(row for row in more if row.defence != "zero-shot")]))
    fill("promptsmooth++ tables", "\n\n".join(parts))


def _carried_out(
    name: str, arguments: argparse.Namespace, wanted: Sequence[str], out: Path
) -> tuple[RunSummary, list[CertifiedRow], Experiment]:
    experiment = _experiment(name, getattr(arguments, name), arguments, wanted)
    began = time.perf_counter()
    use_threads(experiment.threads)
    summary = run(experiment, out, tell=_reporter(name))
    print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return summary, read_rows(out / "certified.jsonl"), experiment


def _experiment(name: str, data: str, arguments: argparse.Namespace, wanted: Sequence[str]) -> Experiment:
    settings = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))
    return Experiment(
        data=data,
        task=TASKS[name],
        limit=arguments.images,
        defences=_rows([Choice.model_validate(choice) for choice in settings["defences"]], wanted),
        threads=arguments.threads,
        certify=CertifySettings(
            sigmas=tuple(arguments.sigmas),
            draws=arguments.n,
            stopping="fixed",
            batch=64,
            lean=False,
            radii=(0.0, 0.1, 0.25, 0.5, 0.75, 1.0),
        ),
    )


def _rows(choices: Sequence[Choice], wanted: Sequence[str]) -> tuple[Choice, ...]:
    """The defences of these names, in the order of the settings; all where none is named."""
    known = {choice.name for choice in choices}
    missing = sorted(set(wanted) - known)
    if missing:
        sys.exit(f"no row {missing[0]!r} in {SETTINGS.name}; there are {', '.join(sorted(known))}")
    return tuple(choice for choice in choices if not wanted or choice.name in wanted)


def _section(name: str, summary: RunSummary, rows: Sequence[CertifiedRow], experiment: Experiment) -> str:
    settings = certify_of(experiment)
    defences = [choice.name for choice in experiment.defences if choice.name != "zero-shot"]
    compared = [pair for pair in COMPARED if pair[0] in settings.sigmas]
    head = "| defence | " + " | ".join(f"σ {s:g}, r {r:g}" for s, r in compared) + " |"
    lines = [head, "| --- |" + " ---: |" * len(compared)]
    for defence in defences:
        gains = [paired_gain(rows, defence, "zero-shot", sigma, radius) for sigma, radius in compared]
        lines.append(f"| {defence} | " + " | ".join(f"{g.points:+.1f} ({_p(g.p_value)})" for g in gains) + " |")
    gains_table = "\n".join(lines)
    return (
        f"## {TITLES[name]}\n\n{summary.images} test images in turn from every class, n = {settings.draws}, "
        f"alpha = {settings.alpha:g}, seed {experiment.seed}.\n\n{markdown_table(summary.levels)}\n"
        f"Points of certified accuracy gained over zero-shot on the same images (McNemar's exact p):\n\n{gains_table}"
    )


def _short(name: str, summaries: Sequence[RunSummary], rows: Sequence[CertifiedRow]) -> str:
    """Certified accuracy at two radii, against zero-shot, and images of which all copies get one class."""
    heads = [f"σ {s:g}, r {r:g}" for s, r in COMPARED]
    lines = [
        f"**{TITLES[name]}**, {summaries[0].images} images", "",
        "| defence | scope | clean | " + " | ".join(heads) + " | one class alone at σ 0.25 |",
        "| --- | --- | ---: |" + " ---: |" * (len(heads) + 1),
    ]  # fmt: skip
    for defence in dict.fromkeys(row.defence for row in rows):
        levels = next(one.levels for one in summaries if defence in one.levels[0].defences)
        scope = levels[0].scope[defence]
        cells = [defence + " †" * (scope != "model"), scope, percent(levels[0].clean_accuracy[defence])]
        for sigma, radius in COMPARED:
            there = next(one for one in levels if one.sigma == sigma).certified_accuracy[defence][radius]
            p_value = paired_gain(rows, defence, "zero-shot", sigma, radius).p_value
            cells.append(percent(there) + (f", {_p(p_value)}" if defence != "zero-shot" else ""))
        mine = [row for row in rows if row.defence == defence and row.sigma == 0.25]
        alike = sum(row.prediction is not None and row.votes == row.trials for row in mine)
        lines.append(table_line([*cells, f"{alike} of {len(mine)}"]))
    return "\n".join(lines)


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _reporter(name: str) -> Tell:
    last = [0.0]

    def show(title: str, done: int, total: int) -> None:
        if time.monotonic() - last[0] > 30 or done == total:
            last[0] = time.monotonic()
            print(f"{name}: {title} {done}/{total}", file=sys.stderr, flush=True)

    return Tell(lambda text: print(f"{name}: {text}", file=sys.stderr, flush=True), show)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blood", default="blood_pbc_28_subset.npz")
    parser.add_argument("--chest", default="pneumoniamnist_subset.npz")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--rows", nargs="+", default=[], help="names; zero-shot is what the others are compared with")
    parser.add_argument("--both-towers", action="store_true", help="PromptSmooth and PromptSmooth++ beside zero-shot")
    parser.add_argument("--sigmas", nargs="+", type=float, default=[0.1, 0.25, 0.5])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "promptsmooth-table")
    parser.add_argument("--sets", nargs="+", default=["blood", "chest"], choices=["blood", "chest"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
