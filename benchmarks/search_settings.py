"""Settings of the defences, tried on the validation splits of blood and chest; the test splits are not touched.

    MEDROBUST_DATA=FOLDER python benchmarks/search_settings.py few-shot|pool|distill|tune|plus|plus-tune

Score: the share of images whose share of right answers among `--draws` noisy copies is at least Phi(r / sigma), that
is, an estimate of certified accuracy without the price of a confidence bound. Good for choosing, not for reporting.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from scipy.stats import norm
from torch import Tensor

from medrobust.data import Dataset, load_task, open_dataset
from medrobust.defences import make_defence
from medrobust.defences.adaptation import merged, vision_part
from medrobust.defences.defence import Defence
from medrobust.jobs.fitting import tuned_on
from medrobust.jobs.pretrain import hits
from medrobust.machine import available_threads
from medrobust.models import load
from medrobust.models.clip import Clip
from medrobust.seeds import stream
from medrobust.smoothing.noise import noise
from medrobust.smoothing.sampling import answers
from medrobust.types import Classifier, Features, Images, State

SETS = {
    "blood": ("blood_pbc_28_subset.npz", "bloodmnist"),
    "chest": ("pneumoniamnist_subset.npz", "pneumoniamnist"),
    "phantom": ("phantom", "phantom"),
}
POINTS = ((0.25, 0.25), (0.25, 0.5), (0.5, 0.5))  # sigma, radius
DISTILLED = {"steps": 600, "lr": 0.005}

GRIDS: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "few-shot": [
        ("promptsmooth", {"start": start, "lr": lr, "sigmas": sigmas})
        for start, sigmas, lr in itertools.product(
            ("random", "template"), ((0.1, 0.25, 0.5), (0.25, 0.5, 0.75, 1.0)), (0.002, 0.01, 0.03)
        )
    ],
    "pool": [
        ("pool", {"lr": lr, "steps": steps, "balance": balance, "sigmas": (0.1, 0.25, 0.5)})
        for lr, steps, balance in itertools.product((2e-3, 1e-2), (100,), (1.0,))
    ],
    "tune": [
        ("promptsmooth", {"mode": "zero-shot", "tune_lr": lr}) for lr in (5e-3, 2e-2)
    ],
    "plus": [
        ("promptsmooth++", {"lr": 0.03, "sigmas": (0.1, 0.25, 0.5), "token_lr": token_lr})
        for token_lr in (0.03, 0.3, 3.0)
    ],
    "plus-tune": [
        ("promptsmooth++", {"mode": "zero-shot", "tune_lr": lr, "tune_steps": steps})
        for lr, steps in ((0.005, 1), (0.02, 1), (0.005, 5), (0.02, 5))
    ],
    "distill": [
        ("distill", {"part": part, "steps": steps, "lr": lr, "rank": 4, "sigmas": (0.1, 0.25, 0.5)})
        for part, steps, lr in (
            ("lora", 300, 0.002), ("lora", 300, 0.005), ("lora", 600, 0.005), ("all", 300, 0.0005),
        )
    ],
}  # fmt: skip


def main() -> None:
    """Print a line for each candidate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=GRIDS)
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--on-distill", action="store_true", help="learn on top of a distilled tower")
    parser.add_argument("--sets", nargs="+", default=["blood", "chest"], choices=SETS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load("builtin")
    for name in arguments.sets:
        source, task = SETS[name]
        val = open_dataset(source, load_task(task), preprocess=model.preprocess, split="val", limit=arguments.images)
        train = open_dataset(source, load_task(task), preprocess=model.preprocess, split="train")
        print(f"{name} zero-shot: {_scores(make_defence('zero-shot'), model, val, {}, arguments.draws)}", flush=True)
        below: State = {}
        if arguments.on_distill:
            below = make_defence("distill", DISTILLED).fit(model, train, generator=stream(0, "fit distill"))
        for title, defence, state in _candidates(arguments.what, model, train, below):
            print(f"{name} {title}: {_scores(defence, model, val, state, arguments.draws)}", flush=True)


def _candidates(what: str, model: Clip, train: Dataset, below: State) -> Iterator[tuple[str, Defence, State]]:
    for name, settings in GRIDS[what]:
        defence = make_defence(name, settings)
        began = time.perf_counter()
        learned = defence.fit(merged(model, vision_part(below)), train, generator=stream(0, f"fit {name}"))
        yield f"{name} {settings} ({time.perf_counter() - began:.0f} s)", defence, {**below, **learned}


def _scores(defence: Defence, model: Clip, val: Dataset, state: State, draws: int) -> str:
    classifier = defence.apply(model, val.task, state)
    clean = hits(classifier, val) / len(val)
    shares = {sigma: _right(defence, classifier, val, sigma, draws) for sigma in sorted({s for s, _ in POINTS})}
    found = [sum(p >= norm.cdf(r / s) for p in shares[s]) / len(val) for s, r in POINTS]
    return f"clean {clean:.1%} " + " ".join(
        f"s{s:g} r{r:g} {share:.1%}" for (s, r), share in zip(POINTS, found, strict=True)
    )


def _right(defence: Defence, classifier: Classifier, val: Dataset, sigma: float, draws: int) -> Sequence[float]:
    shares = []
    seen = _noisy_features(classifier.encode, val, sigma, draws)
    for number, (item, label) in enumerate(zip(val.ids, val.targets, strict=True)):
        used = tuned_on(defence, classifier, val.read(number), sigma=sigma, seed=0, item=item)
        with torch.inference_mode():
            own = used.encode == classifier.encode
            features = seen[number] if own else _features(used.encode, val, number, sigma, draws)
            shares.append(float((answers(used.head(features)) == label).float().mean()))
    return shares


@lru_cache(maxsize=8)
@torch.inference_mode()
def _noisy_features(encode: Callable[[Images], Features], val: Dataset, sigma: float, draws: int) -> Tensor:
    """images x draws x dim; the same draws for every head on one encoder."""
    return torch.stack([_features(encode, val, number, sigma, draws) for number in range(len(val))])


def _features(encode: Callable[[Images], Features], val: Dataset, number: int, sigma: float, draws: int) -> Tensor:
    image = val.read(number)
    source = noise(tuple(image.shape), image.device, seed=0, use="search", item=val.ids[number], sigma=sigma)
    return encode(image + sigma * source(draws))


if __name__ == "__main__":
    main()
