"""Questions of VQA-RAD, with images that were never learned from, and by the official split, which shares them.

    MEDROBUST_DATA=FOLDER python benchmarks/vqa_table.py

Two `medrobust vqa` commands, which go on where they stopped; `--dry` prints them. Then the tables between the marks of
docs/evidence/questions.md are written anew, with exact paired tests, and the numbers as docs/evidence/data/vqa-*.json.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from product import DATA, carry_out, fill, parser_of
from scipy.stats import binomtest

from medrobust.results.journal import read_journal
from medrobust.vqa.rows import ANSWERED, AnsweredRow

COMMAND = [
    "vqa", "--data", "vqa_rad_224.npz", "--questions", "vqa_rad_224_qa.jsonl", "--eps", "1/255", "--eps", "4/255",
    "--threads", "1",
]  # fmt: skip
TABLES = {"images": ("Images never learned from", []), "official": ("The official test questions", ["--official"])}
PAIRS = [("ran", "linear"), ("ran", "nmtune")]


def main() -> None:
    """Ask what is missing, then write the tables."""
    arguments = parser_of(__doc__, "vqa-table").parse_args()
    blocks = []
    for name, (title, more) in TABLES.items():
        out = arguments.out / name
        command = [*COMMAND, *more, "--out", str(out)]
        carry_out(out / "vqa.json", command, dry=arguments.dry, home=arguments.data)
        if arguments.dry:
            continue
        shutil.copyfile(out / "vqa.json", DATA / f"vqa-{name}.json")
        blocks += [f"## {title}", (out / "vqa.md").read_text(encoding="utf-8").strip(), _paired(out)]
    if blocks:
        fill("vqa", "\n\n".join(blocks))


def _paired(out: Path) -> str:
    """Questions that one recipe alone answers rightly, and the exact McNemar p of the difference, all questions."""
    rows = read_journal(out / "answered.jsonl", ANSWERED)
    by = {(row.recipe, row.id): row for row in rows}
    ids = dict.fromkeys(row.id for row in rows)
    columns: dict[str, Callable[[AnsweredRow], bool]] = {
        "clean": lambda row: row.clean == row.truth,
        "1/255": lambda row: row.attacked[0] == row.truth,
        "4/255": lambda row: row.attacked[1] == row.truth,
    }
    lines = ["| right under one alone | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for one, other in PAIRS:
        cells = []
        for right in columns.values():
            mine = sum(right(by[one, name]) and not right(by[other, name]) for name in ids)
            yours = sum(right(by[other, name]) and not right(by[one, name]) for name in ids)
            p = binomtest(mine, mine + yours).pvalue if mine + yours else 1.0
            cells.append(f"{mine} : {yours}, p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}")
        lines.append(f"| {one} : {other} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
