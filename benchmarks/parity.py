"""Our suite beside the authors' code, as pyautoattack packs it, on the built-in model and real images.

    pip install medrobust[autoattack]
    MEDROBUST_DATA=FOLDER python benchmarks/parity.py

Two and three classes, where the other code stops; then 256 blood cells (8 classes), linf and l2: images left standing
by both, by one of them, times. Writes docs/evidence/data/parity.json.
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

import pyautoattack
import torch
from product import DATA

from medrobust.attacks import Ball
from medrobust.attacks.suite import run_suite
from medrobust.data import load_task, open_dataset
from medrobust.defences.zero_shot import zero_shot
from medrobust.models import load
from medrobust.seeds import stream
from medrobust.types import Classifier, Images, Labels

CASES = [  # file, task, norm, eps, images
    ("pneumoniamnist_subset.npz", "pneumoniamnist", "linf", 4 / 255, 32),
    ("vqa_rad_224.npz", "vqarad-organs", "linf", 4 / 255, 32),
    ("blood_pbc_28_subset.npz", "bloodmnist", "linf", 4 / 255, 256),
    ("blood_pbc_28_subset.npz", "bloodmnist", "l2", 0.5, 256),
]


def main() -> None:
    """All cases, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("MEDROBUST_DATA", ".")))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, help="instead of 256 and 32")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, found = load("builtin"), []
    for file, task, norm, eps, count in CASES:
        data = open_dataset(
            str(arguments.data / file), load_task(task), preprocess=model.preprocess, split="test",
            limit=arguments.images or count,
        )  # fmt: skip
        classifier = zero_shot().apply(model, data.task, {})
        one = compare(classifier, data.images(), data.labels, Ball.parse(norm, eps))
        found.append({"task": task, "classes": len(data.task.classes), **one})
        print(json.dumps(found[-1]), flush=True)
        (DATA / "parity.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def compare(classifier: Classifier, images: Images, labels: Labels, ball: Ball) -> dict[str, Any]:
    """Which images stand under each code."""
    began = time.perf_counter()
    report = run_suite(classifier, images, labels, ball=ball, generator=stream(0, "parity"), batch=64, probe=False)
    ours, middle = torch.tensor([by is None for by in report.broken_by]), time.perf_counter()
    said = {"ball": str(ball), "images": len(images), "clean": report.clean_accuracy, "ours": int(ours.sum()),
            "standard": report.standard, "seconds_ours": round(middle - began)}  # fmt: skip
    try:
        theirs = standing(classifier, images, labels, ball)
    except Exception as error:  # noqa: BLE001 - whatever it dies of is the result
        return {**said, "theirs": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    alone = {"ours_alone": int((ours & ~theirs).sum()), "theirs_alone": int((theirs & ~ours).sum())}
    return {**said, "theirs": int(theirs.sum()), **alone, "seconds_theirs": round(time.perf_counter() - middle)}


def standing(classifier: Classifier, images: Images, labels: Labels, ball: Ball) -> torch.Tensor:
    """What the other code leaves standing, judged from outside."""
    classes = classifier(images[:1]).shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        suite = pyautoattack.AutoAttack(
            classifier, norm={"linf": "Linf", "l2": "L2"}[ball.norm], eps=ball.eps, seed=0, device="cpu"
        )
        suite.apgd_targeted.n_target_classes = suite.fab.n_target_classes = min(9, classes - 1)
        attacked = suite.run_standard_evaluation(images, labels, batch_size=64)[0]
    with torch.no_grad():
        return (classifier(attacked).argmax(dim=1) == labels) & ball.contains(attacked, images)


if __name__ == "__main__":
    main()
