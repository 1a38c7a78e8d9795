"""What the numbers of a run say, in plain words."""

from collections.abc import Sequence

from medrobust.errors import RunError
from medrobust.results.report.markdown import span
from medrobust.results.rows.certified import CertifiedRow
from medrobust.results.tables import Summary, grouped, middle_radius, number_key, paired_gain
from medrobust.smoothing import bounds

_MANY = 0.5  # abstentions above this share get a reason
_FEW = 8  # images that may be of one class by chance
_NEARLY_ALL = 0.9  # images on which a tuned classifier gives one answer to every noisy copy


def headline(block: Summary, rows: Sequence[CertifiedRow]) -> list[str]:
    """The result in two to five sentences: the baseline (first defence), the best sound one, the best tuned one.

    A tuned one that answers nearly every noisy copy alike is named as such and not among the best.
    """
    radius, sigma = middle_radius(block), block["sigma"]
    shares = {name: parts[number_key(radius)] for name, parts in block["certified_accuracy"].items()} if radius else {}
    if not shares:
        return ["No radius above 0 was asked for that these trials could certify."]
    baseline, *others = block["defences"]
    told = [_of_findings(block)] if "findings" in block else []
    told += [
        f"At radius {radius:g} (noise σ = {sigma:g}), {_named(block, baseline)} keeps {_percent(shares[baseline])} of "
        f"{block['images']} images both right and certified: "
        f"no change of the pixels with an l2 norm below {radius:g} alters the answer."
    ]
    empty = [name for name, _ in constant_answers(block, grouped(rows).get(sigma, {})) if name in others]
    for scope in ("model", "tuned on input"):
        rivals = [name for name in others if block["scope"][name] == scope and name not in empty]
        if rivals:
            best = max(rivals, key=lambda name: shares[name]["value"])
            change = _gain(rows, best, baseline, sigma, radius, rivals=len(rivals))
            told.append(f"{_named(block, best)} keeps {_percent(shares[best])}{change}.")
    if empty:
        names = " and ".join(f"“{name}”" for name in empty)
        told.append(f"Of {names} (†, tuned on each input) the radii say little, for the reason told below.")
    return told


def _of_findings(block: Summary) -> str:
    count = len(next(iter(block["findings"].values())))
    return (
        f"Each of {count} findings has a certificate of its own at alpha / {count}; an image counts as right where all "
        "of its answers are."
    )


def _percent(part: dict[str, float]) -> str:
    return f"{100 * part['value']:.1f} % ({span(part).replace('-', '–')})"


def _named(block: Summary, name: str) -> str:
    return f"“{name}”" + ("" if block["scope"][name] == "model" else " (†, tuned on each input)")


def _gain(rows: Sequence[CertifiedRow], name: str, baseline: str, sigma: float, radius: float, *, rivals: int) -> str:
    try:
        gain = paired_gain(rows, name, baseline, sigma, radius)
    except RunError:  # an interrupted run may not have reached an image of both
        return ""
    p_value = min(1.0, gain.p_value * rivals)  # Bonferroni: it was picked as the best of its rivals
    chance = "" if p_value < 0.05 else "; a difference of this size may be chance"
    size = "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"
    many = f", corrected for {rivals} comparisons" if rivals > 1 else ""
    return f", {gain.points:+.1f} points against “{baseline}” (exact McNemar p {size}{many}{chance})"


def abstentions(block: Summary, rows: dict[str, list[CertifiedRow]]) -> list[tuple[str, str]]:
    """Defence and reason, for each that abstains on more than half of the images."""
    return [
        (name, _reason(block, name, rows[name]))
        for name, part in block["abstained"].items()
        if part["value"] > _MANY and rows.get(name)
    ]


def constant_answers(block: Summary, rows: dict[str, list[CertifiedRow]]) -> list[tuple[str, str]]:
    """Defence and warning, for each tuned on the input that answers all noisy copies alike on nearly all images."""
    found = []
    for name, members in rows.items():
        alike = sum(row.prediction is not None and row.votes == row.trials for row in members)
        if block["scope"][name] != "model" and alike > _NEARLY_ALL * len(members):
            found.append((name, (
                f"gives every noisy copy the same answer on {alike} of {len(members)} images: tuned on the image, it "
                "answers nearly everything around it alike, so its radii tell of that and not of the image."
            )))  # fmt: skip
    return found


def one_class(rows: dict[str, list[CertifiedRow]]) -> list[tuple[str, str]]:
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


def _reason(block: Summary, name: str, rows: Sequence[CertifiedRow]) -> str:
    abstained = block["abstained"][name]
    lead = f"abstains on {abstained['hits']} of {abstained['total']} images: "
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
    clean = block["clean_accuracy"][name]["value"]
    share = 100 * sum(row.votes for row in silent) / max(1, sum(row.trials for row in silent))
    votes = f"under noise the leading class got {share:.0f} % of the votes on average, no majority"
    if clean >= _MANY:
        return lead + (
            f"{votes}, though {100 * clean:.0f} % of the noiseless images are answered right: sigma = "
            f"{block['sigma']:g} is too large for this classifier; try a smaller sigma or a defence trained on noise."
        )
    return lead + (
        f"{votes}, and {100 * clean:.0f} % of the noiseless images are answered right: its accuracy is near chance, "
        "so there is little to certify; try another model, other class names or a fitted defence."
    )
