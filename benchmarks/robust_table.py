"""Adversarial training and adversarial prompts on real images: learned on blood cells, attacked there and elsewhere.

    MEDROBUST_DATA=FOLDER python benchmarks/robust_table.py

Every line of `robust.yaml` becomes a `medrobust fit`, every data set a `medrobust attack` of all that was learned; two
commands run at a time, one thread each, and go on where they stopped. `--dry` prints them. Then the tables between the
marks of docs/evidence/training-against-attacks.md are written anew, and the summaries as robust-*.json in data beside.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from product import carry_out, fill, keep, parser_of

PLAN = yaml.safe_load(Path(__file__).with_name("robust.yaml").read_text(encoding="utf-8"))
TITLES = {
    "blood": "blood cells (learned on)",
    "chest": "chest X-rays (not learned on)",
    "colon": "colon (not learned on)",
}


def main() -> None:
    """Learn and attack what is missing, then write the tables."""
    arguments = _arguments()
    for name in arguments.tables:
        plan, out = PLAN["tables"][name], arguments.out / name
        fits = dict(_fits(plan, arguments, out))
        attacks = dict(_attacks(plan, arguments, out))
        began = time.perf_counter()
        for commands in (fits, attacks):
            with ThreadPoolExecutor(arguments.jobs) as pool:
                list(pool.map(lambda one: carry_out(*one, dry=arguments.dry), commands.items()))
        if arguments.dry:
            continue
        print(f"{name}: {(time.perf_counter() - began) / 60:.0f} min", file=sys.stderr)
        summaries = {data: json.loads((out / data / "summary.json").read_text()) for data in PLAN["data"]}
        keep(f"robust-{name}", summaries)
        fill(f"robust {name}", _tables(plan, summaries))


def _fits(plan: Mapping[str, Any], arguments: argparse.Namespace, out: Path) -> Iterator[tuple[Path, list[str]]]:
    learned = PLAN["data"][PLAN["learned_on"]]
    for fit, own in plan["fits"].items():
        settings = {**plan["common"], **own}
        folder = out / "states" / fit.replace(" ", "-")
        sets = [
            text for key, value in settings.items() if key != "defence" for text in ("--set", f"{key}={_text(value)}")
        ]
        yield folder / "state.safetensors", [
            "fit", "--data", str(arguments.data / learned["file"]), "--task", learned["task"], "--defence",
            settings["defence"], *sets, "--seed", str(arguments.seed), "--threads", "1", "--out", str(folder),
        ]  # fmt: skip


def _attacks(plan: Mapping[str, Any], arguments: argparse.Namespace, out: Path) -> Iterator[tuple[Path, list[str]]]:
    chosen = ["--defence", "zero-shot"]
    for fit, own in plan["fits"].items():
        state = out / "states" / fit.replace(" ", "-") / "state.safetensors"
        chosen += ["--defence", f"{own['defence']}={state}"]
    chosen += [text for name in plan["attacks"] for text in ("--attack", name)]
    chosen += [text for eps in PLAN["eps"] for text in ("--eps", eps)]
    for name, data in PLAN["data"].items():
        images = arguments.images or min(data["images"], plan.get("images", data["images"]))
        yield out / name / "summary.json", [
            "attack", "--data", str(arguments.data / data["file"]), "--task", data["task"], "--limit",
            str(images), *chosen, "--transfer", "--threads", "1", "--batch", "64",
            "--seed", str(arguments.seed), "--out", str(out / name),
        ]  # fmt: skip


def _tables(plan: Mapping[str, Any], summaries: Mapping[str, Any]) -> str:
    return "\n\n".join(f"**{TITLES[data]}**\n\n{_table(plan, summary)}" for data, summary in summaries.items())


def _table(plan: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    part, robust = summary["attack"], summary["robust_accuracy"]
    titles = list(next(iter(robust.values())))
    lines = ["| | clean | " + " | ".join(titles) + " |", "| --- |" + " ---: |" * (1 + len(titles))]
    names = ["zero-shot", *plan["fits"]]
    for name, defence in zip(names, part["defences"], strict=True):
        shares = [part["clean_accuracy"][defence], *(robust[defence][title] for title in titles)]
        lines.append(f"| {name} | " + " | ".join(_share(share) for share in shares) + " |")
    return "\n".join([*lines, "", f"{part['images']} images; exact 95 % intervals."])


def _share(share: Mapping[str, float]) -> str:
    return f"{100 * share['value']:.1f} ({100 * share['low']:.0f}–{100 * share['high']:.0f})"


def _text(value: Any) -> str:
    return "null" if value is None else str(value)


def _arguments() -> argparse.Namespace:
    parser = parser_of(__doc__, "robust-table")
    parser.add_argument("--tables", nargs="+", default=list(PLAN["tables"]), choices=list(PLAN["tables"]))
    parser.add_argument("--images", type=int, help="a set, instead of the plan's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="commands at a time")
    return parser.parse_args()


if __name__ == "__main__":
    main()
