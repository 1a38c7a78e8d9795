"""Upstream models of which a share of the pairs was attacked, and what heads on them are worth downstream.

    MEDROBUST_DATA=FOLDER python benchmarks/noise_table.py

Every share and seed of `noise.yaml` becomes a `medrobust pretrain --noise`, every data set a `medrobust probe` of all
models; both go on where they stopped, and `--dry` prints them. Then the tables between the marks of
docs/evidence/upstream-noise.md are written anew, with the change against no attacked pair, and the numbers and figures
as docs/evidence/data/noise*.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import yaml
from product import DATA, carry_out, fill, keep, parser_of

if TYPE_CHECKING:
    from medrobust.results.upstream import ProbeSummary

PLAN = yaml.safe_load(Path(__file__).with_name("noise.yaml").read_text(encoding="utf-8"))
DRAWS = 4000
TITLES = {"blood": "blood cells", "chest": "chest X-rays"}


def main() -> None:
    """Train and probe what is missing, then write the tables."""
    arguments = parser_of(__doc__, "noise-table").parse_args()
    models = []
    for seed in PLAN["seeds"]:
        for share in PLAN["shares"]:
            folder = arguments.out / "models" / f"noise-{share.removesuffix('%')}-seed-{seed}"
            carry_out(folder / "noise.json", [
                "pretrain", str(Path(__file__).with_name(PLAN["recipe"])), "--noise", share, "--seed", str(seed),
                "--attack-steps", str(PLAN["attack_steps"]), "--out", str(folder),
            ], dry=arguments.dry, home=arguments.data)  # fmt: skip
            models.append(folder)
    for name, data in PLAN["data"].items():
        given = [text for folder in models for text in ("--model", str(folder))]
        carry_out(arguments.out / name / "probe.json", [
            "probe", *given, "--data", data["file"], "--task", data["task"], "--limit", str(data["images"]),
            "--set", f"shots={data['shots']}", "--eps", PLAN["eps"], "--threads", "1", "--out",
            str(arguments.out / name),
        ], dry=arguments.dry, home=arguments.data)  # fmt: skip
    if not arguments.dry:
        from medrobust.results.upstream import read_probe

        _write(arguments.out, {name: read_probe(arguments.out / name / "probe.json") for name in PLAN["data"]})


def _write(out: Path, found: Mapping[str, "ProbeSummary"]) -> None:
    from medrobust.results.sections.probed import upstream_markdown
    from medrobust.results.upstream import mean_spectra
    from medrobust.results.values import to_json

    blocks = []
    told = {}
    for name, probed in found.items():
        shutil.copyfile(out / name / "noise.svg", DATA / f"noise-{name}.svg")
        changes = _changes(out / name, probed)
        spectra = {f"{100 * share:g} %": one for share, one in mean_spectra(probed.models).items()}
        told[name] = to_json({"curves": probed.noise_curves, "changes": changes, "spectra": spectra})
        entropy = ", ".join(f"{share}: {one.entropy:.3f}" for share, one in spectra.items())
        blocks += [
            f"**{TITLES[name]}**",
            f"![{TITLES[name]}](data/noise-{name}.svg)",
            upstream_markdown(probed).strip(),
            _change_table(changes),
            f"Entropy of the spectrum, in nats: {entropy}.",
        ]
    keep("noise", told)
    fill("noise", "\n\n".join(blocks))


def _changes(folder: Path, probed: "ProbeSummary") -> dict[str, dict[str, dict[str, list[float]]]]:
    """For each recipe, column and share: points gained against share 0, and the interval of `_bootstrap`."""
    hits = _hits(folder, probed)
    changes: dict[str, dict[str, dict[str, list[float]]]] = {}
    for (recipe, column, share), own in sorted(hits.items()):
        if share:
            gain = np.stack([own[seed] - hits[recipe, column, 0.0][seed] for seed in sorted(own)])
            changes.setdefault(recipe, {}).setdefault(column, {})[f"{100 * share:g} %"] = _bootstrap(gain)
    return changes


def _hits(folder: Path, probed: "ProbeSummary") -> dict[tuple[str, str, float], dict[int, np.ndarray]]:
    """By recipe, column and share, and then by seed: 1 for each image answered rightly, in the order of the ids."""
    from medrobust.results.rows.attacked import read_attacked

    hits: dict[tuple[str, str, float], dict[int, np.ndarray]] = {}
    for name, model in probed.models.items():
        if model.noise is None:
            continue
        rows = sorted(read_attacked(folder / name / "attacked.jsonl"), key=lambda row: row.id)
        share, seed = model.noise.share, model.noise.seed
        for recipe in model.clean_accuracy:
            broken = [row.broken_by for row in rows if row.defence == recipe]
            hits.setdefault((recipe, "clean", share), {})[seed] = np.array([by != "clean" for by in broken], float)
            hits.setdefault((recipe, "robust", share), {})[seed] = np.array([by is None for by in broken], float)
    return hits


def _bootstrap(gain: np.ndarray) -> list[float]:
    """Mean of a seeds x images array, and its 95 % interval with seeds and images drawn anew, all in points."""
    draw, (seeds, images) = np.random.default_rng(0), gain.shape
    means = [
        gain[np.ix_(draw.integers(seeds, size=seeds), draw.integers(images, size=images))].mean() for _ in range(DRAWS)
    ]
    return [round(100 * float(value), 2) for value in (gain.mean(), *np.quantile(means, [0.025, 0.975]))]


def _change_table(changes: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> str:
    shares = list(next(iter(next(iter(changes.values())).values())))
    lines = ["| points against 0 % | | " + " | ".join(shares) + " |", "| --- | --- |" + " ---: |" * len(shares)]
    for recipe, columns in changes.items():
        for column, own in columns.items():
            cells = (f"{value:+.1f} ({low:+.1f} to {high:+.1f})" for value, low, high in own.values())
            lines.append(f"| {recipe} | {column} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
