"""The whole job at 224 pixels with a CLIP of the size of ViT-Ti/16, and what an image costs there.

    MEDROBUST_DATA=FOLDER python benchmarks/large_table.py

Three steps, each left out where it is done: `medrobust pretrain` twice (benchmarks/clip-224.yaml, then 800 steps more),
a `medrobust run` on blood cells and on chest X-rays (benchmarks/large.yaml) and one of zero-shot alone at n = 10,000;
then encoder passes are timed here, for this model and for ViT-B/32 of random weights. An image takes as many passes as
the runs' images took. Tables go between the marks of docs/evidence/at-224-pixels.md.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch
import yaml
from product import ROOT, carry_out, fill, keep
from speed_networks import MEAN, STD, network, picture

from medrobust.models import load
from medrobust.models.clip import clip_tower
from medrobust.results import read_rows, read_summary
from medrobust.results.sections.certificates import markdown_table
from medrobust.smoothing.certify import Smoothing
from medrobust.smoothing.encoding import EncoderChoice, choose_sampler, seconds_a_copy
from medrobust.types import Classifier

SETS = {
    "blood": ("blood_pbc_224_subset.npz", "bloodmnist", "Blood cells, 224 px (8 classes)"),
    "chest": ("chest_pneumonia_224_subset.npz", "pneumoniamnist", "Chest X-rays, 224 px (2 classes)"),
}
COST_SIGMA = 0.25


def main() -> None:
    """Do what is missing, then write the tables."""
    arguments = _arguments()
    if arguments.model is None:
        arguments.model = _pretrained(arguments)
    blocks = []
    for name in arguments.sets:
        for kind in ("all", "long"):
            _run(name, kind, arguments)
        if not arguments.dry:
            blocks.append(_section(name, arguments.out / f"{name}-all"))
    if arguments.dry or len(blocks) < len(SETS):
        return
    fill("large tables", "\n\n".join(blocks))
    if arguments.cost:
        found = _cost(arguments)
        keep("large-cost", found)
        fill("large cost", _cost_table(found))


def _pretrained(arguments: argparse.Namespace) -> str:
    first, model = arguments.out / "clip-224", arguments.out / "clip-224-more"
    recipe = str(ROOT / "benchmarks" / "clip-224.yaml")
    for out, more in ((first, []), (model, ["--from", str(first), "--steps", "800", "--seed", "1"])):
        carry_out(
            out / "model.safetensors", ["pretrain", recipe, *more, "--out", str(out)], dry=arguments.dry, threads=2
        )
    return str(model)


def _run(name: str, kind: str, arguments: argparse.Namespace) -> None:
    spec = yaml.safe_load((ROOT / "benchmarks" / "large.yaml").read_text(encoding="utf-8"))
    data, task, _ = SETS[name]
    spec |= {"model": arguments.model, "data": data, "task": task, "limit": arguments.images, "threads": 1}
    if kind == "long":
        spec |= {"defences": ["zero-shot"], "n": 10_000, "sigmas": [COST_SIGMA], "limit": arguments.few}
    out = arguments.out / f"{name}-{kind}"
    if not arguments.dry:
        out.mkdir(parents=True, exist_ok=True)
        (out / "asked.yaml").write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
    carry_out(out / "summary.json", ["run", str(out / "asked.yaml"), "--out", str(out)], dry=arguments.dry)


def _section(name: str, out: Path) -> str:
    summary = read_summary(out / "summary.json")
    keep(f"large-{name}", summary.to_json())
    return f"**{SETS[name][2]}**\n\n{markdown_table(summary.levels)}"


def _cost(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds a noisy copy of both networks, in turn, and noisy copies an image of the runs."""
    torch.set_num_threads(arguments.threads)
    model, clip = load(arguments.model), network("vit-b32")
    tower = clip_tower(clip.vision_model, clip.visual_projection, MEAN, STD)
    encoders = {"ViT-Ti/16": model.encode_image, "ViT-B/32": model.with_vision(tower).encode_image}
    image, rule = picture("vit-b32"), Smoothing(COST_SIGMA)  # of 224 pixels, for both
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    kernels: dict[str, list[str]] = {}
    for _round in range(arguments.rounds):
        for name, encode in encoders.items():
            classifiers = [Classifier(encode, lambda features: features[:, :8])]
            sampler = choose_sampler(classifiers, image, EncoderChoice(compile=False), smoothings=[rule], images=1)
            seconds[name].append(seconds_a_copy(classifiers, image, rule, sampler))
            kernels[name] = [*sampler.kernels, f"batch {sampler.batch}"]
    copies = {}
    for name in SETS:
        for kind, n in (("all", 1000), ("long", 10_000)):
            rows = read_rows(arguments.out / f"{name}-{kind}" / "certified.jsonl")
            there = [row for row in rows if row.defence == "zero-shot" and row.sigma == COST_SIGMA]
            copies[f"{name}, n = {n}"] = {
                "images": len(there), "copies": mean(row.drawn + row.selection for row in there), "most": n + 100
            }  # fmt: skip
    return {"threads": arguments.threads, "seconds_a_copy": seconds, "kernels": kernels, "copies": copies,
            "measured": time.strftime("%Y-%m-%d")}  # fmt: skip


def _cost_table(found: dict[str, Any]) -> str:
    best = {name: min(times) for name, times in found["seconds_a_copy"].items()}
    lines = [
        "| images | noisy copies an image, mean | " + " | ".join(f"{name}, images an hour" for name in best) + " |",
        "| --- | ---: |" + " ---: |" * len(best),
    ]
    for name, part in found["copies"].items():
        hours = [f"{3600 / (part['copies'] * seconds):,.0f}" for seconds in best.values()]
        lines.append(f"| {name}, spending | {part['copies']:,.0f} of {part['most']:,} | " + " | ".join(hours) + " |")
    for n in (1000, 10_000):
        hours = [f"{3600 / ((n + 100) * seconds):,.0f}" for seconds in best.values()]
        lines.append(f"| any, n = {n}, fixed | {n + 100:,} | " + " | ".join(hours) + " |")
    rounds = len(next(iter(found["seconds_a_copy"].values())))
    speed = "; ".join(f"{name} {1 / seconds:,.0f} copies a second" for name, seconds in best.items())
    return "\n".join(lines) + f"\n\n{speed} ({found['threads']} threads, the best of {rounds} rounds)."


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model that is there already, in place of the pre-training")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS), help="two processes, one each")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--few", type=int, default=8, help="images at n = 10,000")
    parser.add_argument("--threads", type=int, default=2, help="of the timing; runs take one")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-cost", dest="cost", action="store_false", help="leave out the timing")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "large")
    parser.add_argument("--dry", action="store_true", help="print the commands only")
    found = parser.parse_args()
    if "MEDROBUST_DATA" not in os.environ and not found.dry:
        sys.exit("set MEDROBUST_DATA to the folder of the data")
    return found


if __name__ == "__main__":
    main()
