"""How much of what spending loses to fixed n is chance: the same answers in other orders.

    python benchmarks/replay_orders.py

Reads what `speed.py replay` has collected under runs/speed; prints a line a set and radius.
"""

import argparse

import numpy as np
from replay import ESTIMATION, SIGMA, Sequences
from speed_record import RAW

from medrobust.smoothing.sequential import Boundaries, Race, Stopping, boundaries

ALPHA, LOOK = 0.001, 32
RADII = (0.125, 0.25, 0.5)


def main() -> None:
    """Print images lost, in the order drawn and on average over shuffled ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=30)
    arguments = parser.parse_args()
    for path in sorted(RAW.glob("replay-*.npz")):
        with np.load(path, allow_pickle=False) as stored:
            hits = Sequences(**{name: stored[name] for name in ("labels", "selected", "packed", "settled")}).hits(0)
        for radius in RADII:
            fixed, spending = _rule("fixed", radius), _rule("spending", radius)
            certain = hits.sum(axis=1) >= fixed.accept[-1, 0]
            generator = np.random.default_rng(0)
            lost = [_lost(hits, certain, spending)]
            lost += [_lost(generator.permuted(hits, axis=1), certain, spending) for _ in range(arguments.orders)]
            print(
                f"{path.stem}, r = {radius}: {len(hits)} images, fixed n needs {fixed.accept[-1, 0]} votes, spending "
                f"{spending.accept[-1, 0]} at its last look; lost {lost[0]}, in other orders {np.mean(lost[1:]):.2f}"
            )


def _rule(stopping: Stopping, radius: float) -> Boundaries:
    return boundaries(
        stopping,
        (radius,),
        sigma=SIGMA,
        alpha=ALPHA,
        budget=ESTIMATION,
        look=LOOK,
    )


def _lost(hits: np.ndarray, certain: np.ndarray, rule: Boundaries) -> int:
    """Images that fixed n certifies and the rule does not, less the other way round."""
    counts = hits.cumsum(axis=1, dtype=np.int64)[:, rule.looks - 1]
    race = Race(rule, len(hits))
    for look in range(len(rule.looks)):
        race.look(look, counts[:, look])
    found = race.certified > 0
    return int((certain & ~found).sum()) - int((found & ~certain).sum())


if __name__ == "__main__":
    main()
