"""Pneumonia, bacterial and viral: three findings of one radiograph, certified in one pass over the noise.

    MEDROBUST_DATA=FOLDER python benchmarks/findings_table.py

FOLDER holds chest_pneumonia_224_subset.npz and the MANIFEST.csv that tells each image's name in its collection, of
which the cause of a pneumonia is a part. Their labels become a matrix of three columns, `medrobust certify` answers
benchmarks/child_chest.yaml, and its tables go between the marks of docs/evidence/findings.md.
"""

import argparse
import csv
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from product import ROOT, carry_out, fill, keep

from medrobust.results import read_summary
from medrobust.results.sections.certificates import markdown_table

IMAGES = "chest_pneumonia_224_subset.npz"
MARKS = ("PNEUMONIA", "bacteria", "virus")  # of the findings, in the names of the collection's files
DEFENCES = ("zero-shot", "promptsmooth:few-shot", "promptsmooth:zero-shot")


def main() -> None:
    """Make the labels, certify what is missing, write the tables."""
    arguments = _arguments()
    archive, out = arguments.out / "child_chest.npz", arguments.out / "run"
    if not archive.exists():
        arguments.out.mkdir(parents=True, exist_ok=True)
        _write_labelled(archive, Path(os.environ["MEDROBUST_DATA"]))
    command = [
        "certify", "--data", str(archive), "--task", str(ROOT / "benchmarks" / "child_chest.yaml"),
        "--sigma", "0.25", "--n", "1000", "--radii", "0,0.1,0.25,0.5", "--limit", str(arguments.images), "--threads",
        "1", "--out", str(out),
    ]  # fmt: skip
    for defence in DEFENCES:
        command += ["--defence", defence]
    carry_out(out / "summary.json", command, dry=False)
    summary = read_summary(out / "summary.json")
    keep("findings", summary.to_json())
    fill("findings", markdown_table(summary.levels).strip())


def _write_labelled(archive: Path, folder: Path) -> None:
    """The images of every split with a row of three labels each."""
    with (folder / "MANIFEST.csv").open(encoding="utf-8", newline="") as file:
        named = [row for row in csv.DictReader(file) if row["file"] == IMAGES]
    arrays: dict[str, Any] = {}
    with np.load(folder / IMAGES) as found:
        for split in ("train", "val", "test"):
            names = {int(row["row"]): row["source_name"] for row in named if row["split"] == split}
            labels = np.array([[mark in names[row] for mark in MARKS] for row in range(len(names))], dtype=np.uint8)
            if not np.array_equal(labels[:, 0], found[f"{split}_labels"].ravel()):
                sys.exit(f"MANIFEST.csv and {IMAGES} disagree about pneumonia in split {split}")
            arrays |= {f"{split}_images": found[f"{split}_images"], f"{split}_labels": labels}
    np.savez(archive, **arrays)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=283)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "findings")
    return parser.parse_args()


if __name__ == "__main__":
    main()
