"""Signs that a table's numbers say less than they seem to, in plain words."""

from collections.abc import Mapping, Sequence

from medrobust.results.rows.certified import CertifiedRow
from medrobust.results.summary import CertifiedSummary
from medrobust.smoothing import bounds

_MANY = 0.5  # abstentions above this share get a reason
_FEW = 8  # images that may be of one class by chance
_NEARLY_ALL = 0.9  # images on which a tuned classifier gives one answer to every noisy copy


def abstentions(level: CertifiedSummary, rows: Mapping[str, Sequence[CertifiedRow]]) -> list[tuple[str, str]]:
    """Defence and reason, for each that abstains on more than half of the images."""
    return [
        (name, _reason(level, name, rows[name]))
        for name, part in level.abstained.items()
        if part.value > _MANY and rows.get(name)
    ]


def constant_answers(level: CertifiedSummary, rows: Mapping[str, Sequence[CertifiedRow]]) -> list[tuple[str, str]]:
    """Defence and warning, for each tuned on the input that answers all noisy copies alike on nearly all images."""
    found = []
    for name, members in rows.items():
        alike = sum(row.prediction is not None and row.votes == row.trials for row in members)
        if level.scope[name] != "model" and alike > _NEARLY_ALL * len(members):
            found.append((name, (
                f"gives every noisy copy the same answer on {alike} of {len(members)} images: tuned on the image, it "
                "answers nearly everything around it alike, so its radii tell of that and not of the image."
            )))  # fmt: skip
    return found


def one_class(rows: Mapping[str, Sequence[CertifiedRow]]) -> list[tuple[str, str]]:
    """Defence and warning, for each whose certified answers are all of one class though the images are of several."""
    found = []
    for name, members in rows.items():
        answers = [row.prediction for row in members if row.prediction is not None]
        share = sum(row.label == answers[0] for row in members) if answers else 0
        if len(answers) >= _FEW and len(set(answers)) == 1 and share < len(members):
            found.append((name, (
                f"gives the same class to all {len(answers)} images that it certifies: under this noise its answer "
                f"does not depend on the image; it is right on the {share} of {len(members)} that happen to be of that "
                "class."
            )))  # fmt: skip
    return found


def _reason(level: CertifiedSummary, name: str, rows: Sequence[CertifiedRow]) -> str:
    abstained = level.abstained[name]
    lead = f"abstains on {abstained.hits} of {abstained.total} images: "
    silent = [row for row in rows if row.prediction is None]
    budget, alpha, smallest = silent[0].budget, silent[0].alpha, min(silent[0].grid, default=0.0)
    needed = bounds.fewest_trials(alpha)
    if budget < needed:
        return (
            lead + f"n = {budget} is too small, at alpha = {alpha:g} nothing can be certified with fewer than "
            f"{needed} trials."
        )
    nearly = sum(2 * row.votes > row.trials for row in silent)
    if 2 * nearly > len(silent) and smallest > 0:
        return lead + (
            f"most of them had a majority of the votes, but not one that holds up to radius {smallest:g}, the smallest "
            "that was asked for; ask for a smaller one too, for instance 0."
        )
    if 2 * nearly > len(silent):
        return lead + (
            f"most of them had a majority of the votes, but n = {budget} is too small to prove it at alpha = "
            f"{alpha:g}; more trials would certify them, with small radii."
        )
    clean = level.clean_accuracy[name].value
    share = 100 * sum(row.votes for row in silent) / max(1, sum(row.trials for row in silent))
    votes = f"under noise the leading class got {share:.0f} % of the votes on average, no majority"
    if clean >= _MANY:
        return lead + (
            f"{votes}, though {100 * clean:.0f} % of the noiseless images are answered right: sigma = "
            f"{level.sigma:g} is too large for this classifier; try a smaller sigma or a defence trained on noise."
        )
    return lead + (
        f"{votes}, and {100 * clean:.0f} % of the noiseless images are answered right: its accuracy is near chance, "
        "so there is little to certify; try another model, other class names or a fitted defence."
    )
