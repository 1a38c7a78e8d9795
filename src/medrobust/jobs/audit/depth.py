"""How much of a run an audit looks at."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Depth:
    """Sample sizes; the checks are honest at any of them, and sharper at larger ones."""

    attacks: int = 20  # certificates attacked, for each defence
    redraws: int = 10  # images, each at one noise level, certified again under all defences
    border: int = 4  # border images, over all defences
    steps: int = 10  # of an attack
    draws: int = 32  # noisy copies behind a step's gradient
    restarts: int = 2
    judge: int = 2_000  # fresh draws that decide whether an attack has succeeded
    repeats: int = 2  # other seeds, for each image that is certified again
    reference: int = 10_000  # fresh draws that radii and border images are held against
    tries: int = 200  # certificates of a border image
    seed: int = 0  # of samples, attacks and fresh noise
    records_only: bool = False

    @property
    def an_attack(self) -> int:
        """Encoder passes, a gradient counted as two more."""
        return self.restarts * self.draws * (3 * self.steps + 1)

    @property
    def a_border(self) -> int:
        """Encoder passes, counted for a rule that may stop early."""
        return 10 * 512 + self.reference + self.tries * 4 * 64
