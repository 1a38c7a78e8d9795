"""The checks of an audit. Each yields what it has found so far, after every certificate it has looked at."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from medrobust.attacks.smoothadv import smooth_adv
from medrobust.data.pictures import pictures
from medrobust.jobs.audit import sample
from medrobust.jobs.audit.depth import Depth
from medrobust.jobs.certify import Reopened
from medrobust.jobs.fitting import Fitted, tuned_on
from medrobust.results import CertifiedRow
from medrobust.seeds import stream
from medrobust.smoothing import bounds
from medrobust.smoothing.audit import attempts as audit
from medrobust.smoothing.audit import decision_border as border
from medrobust.smoothing.audit.attempts import LEVEL, Attempt
from medrobust.smoothing.audit.claims import Claim, doubts
from medrobust.smoothing.audit.decision_border import Tries
from medrobust.smoothing.certify import Smoothing, certify, count_votes
from medrobust.smoothing.sampling import Draws
from medrobust.tell import Tell
from medrobust.types import Classifier, Image

Block = dict[str, Any]  # tested, findings, defences: as in audit.json


def records(rows: Sequence[CertifiedRow], tell: Tell) -> Iterator[Block]:
    """Every radius, from its record alone."""
    found = []
    for done, row in enumerate(rows, 1):
        found += [_finding(row, sentence) for sentence in doubts(row)]
        tell.progress("records", done, len(rows))
    yield {"tested": len(rows), "findings": found}


def attacks(rows: Sequence[CertifiedRow], opened: Reopened, depth: Depth, tell: Tell) -> Iterator[Block]:
    """SmoothAdv inside certified radii; where prompts are tuned on the input, the tuned again answer as well."""
    chosen = sample.certified(rows, depth.attacks, depth.seed)
    total, done = sum(map(len, chosen.values())), 0
    block: Block = {"tested": 0, "findings": [], "defences": {}}
    for fitted in opened.fitted:
        attempts: list[Attempt] = []
        for row in chosen.get(fitted.label, []):
            image = _image(opened, row)
            attempts.append(_attack(row, image, fitted, opened, depth, LEVEL / total))
            if attempts[-1].broken:
                block["findings"].append(_broken(row, image, attempts[-1]))
            block["defences"][fitted.label] = _told_of_attacks(attempts, fitted)
            block["tested"] = done = done + 1
            tell.progress("attack", done, total)
            yield block
    yield block


def _attack(row: CertifiedRow, image: Image, fitted: Fitted, opened: Reopened, depth: Depth, level: float) -> Attempt:
    retune: Callable[[Image], Classifier] | None = None
    if fitted.defence.tune is not None:
        retune = partial(_frozen, row, fitted)
    return audit.attack_inside(
        _frozen(row, fitted, image),
        image,
        row,
        partial(smooth_adv, steps=depth.steps, draws=depth.draws, restarts=depth.restarts, batch=min(64, depth.draws)),
        draws=Draws(row.sigma, depth.judge, "audit", depth.seed, row.id),
        level=level,
        generator=stream(depth.seed, f"audit attack {fitted.label}", row.id, row.sigma),
        sampler=opened.sampler,
        retune=retune,
    )


def _told_of_attacks(attempts: Sequence[Attempt], fitted: Fitted) -> Block:
    answers = [one.retuned for one in attempts if one.retuned is not None]
    said = {
        name: bounds.interval(answers.count(name), len(answers))._asdict() for name in ("same", "changed", "abstains")
    }
    return {
        "scope": fitted.defence.scope,
        "attempts": len(attempts),
        "broken": sum(one.broken for one in attempts),
        "lowest_share": min(one.share for one in attempts),
        "retuned": said if answers else None,
    }


def _broken(row: CertifiedRow, image: Image, attempt: Attempt) -> Block:
    sentence = (
        f"at distance {attempt.distance:.6f}, inside its radius {row.radius:.6f}, class {row.prediction} has only "
        f"{attempt.votes} of {attempt.trials} votes under fresh noise"
    )
    return {**_finding(row, sentence), "pictures": pictures(image, attempt.attacked)}


def redraws(rows: Sequence[CertifiedRow], opened: Reopened, depth: Depth, tell: Tell) -> Iterator[Block]:
    """Certificates made again: with their own seed the same, with others seldom contradicted by a large count."""
    tallies = {f.label: {"replayed": 0, "differ": 0, "redrawn": 0, "contradicted": 0} for f in opened.fitted}
    differ: list[Block] = []
    chosen = sample.levels(rows, depth.redraws, depth.seed)
    yield {"tested": 0, "findings": [], "defences": tallies}
    for done, there in enumerate(chosen, 1):
        for row, changes, wrong in _again(there, opened, depth):
            if changes:
                differ.append(_finding(row, f"drawn again from its own seed it is another: {'; '.join(changes)}"))
            more = {"replayed": 1, "differ": len(changes) > 0, "redrawn": len(wrong), "contradicted": sum(wrong)}
            tallies[row.name] = {name: tallies[row.name][name] + extra for name, extra in more.items()}
        tell.progress("draw again", done, len(chosen))
        alpha = max(row.alpha for row in there.values())
        yield {"tested": done, "findings": differ + _too_many(tallies, alpha), "defences": tallies}


def _again(
    there: dict[str, CertifiedRow], opened: Reopened, depth: Depth
) -> Iterator[tuple[CertifiedRow, list[str], list[bool]]]:
    """For each row of an image: what its own seed gives differently, and which radii a large count contradicts."""
    one = next(iter(there.values()))
    image, rule = _image(opened, one), _rule(opened, one)
    classifiers = [_frozen(one, fitted, image) for fitted in opened.fitted]  # all of them, as the run had
    own = certify(classifiers, image, rule, seed=one.seed, item=one.id, sampler=opened.sampler)
    others = audit.redraw(
        classifiers, image, rule, seed=depth.seed, item=one.id, repeats=depth.repeats, sampler=opened.sampler
    )
    large = Draws(rule.sigma, depth.reference, "audit reference", depth.seed, one.id)
    counts = count_votes(classifiers, image, large, opened.sampler)
    for fitted, mine, new, votes in zip(opened.fitted, own, others, counts, strict=True):
        if fitted.label in there:
            row = there[fitted.label]
            claims: list[Claim] = [row, *new]
            wrong = [audit.contradicted(claim, votes, large.trials) for claim in claims]
            yield row, audit.differing(mine, row), wrong


def _too_many(tallies: dict[str, dict[str, int]], alpha: float) -> list[Block]:
    return [
        {
            "defence": defence,
            "id": None,
            "sigma": None,
            "sentence": f"{tally['contradicted']} of {tally['redrawn']} certificates claim a radius that a large count "
            f"of fresh noise contradicts; alpha = {alpha:g} does not explain so many",
        }
        for defence, tally in tallies.items()
        if audit.too_many(tally["contradicted"], tally["redrawn"], alpha, LEVEL / len(tallies))
    ]


def borders(rows: Sequence[CertifiedRow], opened: Reopened, depth: Depth, tell: Tell) -> Iterator[Block]:
    """The stated error probability, at images between two classes."""
    ready = {fitted.label: fitted for fitted in opened.fitted}
    block: Block = {"tested": 0, "findings": [], "defences": {}}
    yield block
    for number, (one, two) in enumerate(sample.opposed(rows, depth.seed)):
        if block["tested"] == depth.border or number == 5 * depth.border:
            break
        image, item = _image(opened, one), f"audit {one.id} to {two.id}"
        classifier, answer = _frozen(one, ready[one.name], image), one.prediction or 0
        small = audit.small_batches(opened.sampler)
        where = Draws(one.sigma, 1, "audit line", depth.seed, item)
        tips = border.border_image(classifier, image, _image(opened, two), answer, draws=where, sampler=small)
        if tips is None:
            continue
        tries = border.try_often(
            classifier, tips, _rule(opened, one), tries=depth.tries, reference=depth.reference, seed=depth.seed,
            item=item, sampler=opened.sampler, level=LEVEL / depth.border,
        )  # fmt: skip
        block["tested"] += 1
        block["findings"] += [_finding(one, f"{sentence} (on the line to {two.id})") for sentence in _doubts_of(tries)]
        _add(block["defences"], one.name, tries)
        tell.progress("border images", block["tested"], depth.border)
        yield block
    if block["tested"] < depth.border:
        tell.say(
            f"{block['tested']} border images found: few images of one defence are certified for different classes"
        )


def _doubts_of(tries: Tries) -> list[str]:
    told = []
    if tries.too_often:
        told.append(
            f"a border image is certified in {tries.certified} of {tries.tries} tries at alpha = {border.ALPHA:g}, "
            f"where at most {100 * tries.allowed:.1f} % are to be expected"
        )
    if tries.dependent:
        told.append(
            "the votes know which class was chosen: at a border image they exceed one half by "
            f"{100 * tries.excess:.1f} points; draws that chose the class are counted again"
        )
    return told


def _add(defences: Block, name: str, tries: Tries) -> None:
    before = defences.get(name, {"images": 0, "tries": 0, "certified": 0, "allowed": 0.0, "alpha": border.ALPHA})
    defences[name] = {
        **before,
        "images": before["images"] + 1,
        "tries": before["tries"] + tries.tries,
        "certified": before["certified"] + tries.certified,
        "allowed": before["allowed"] + tries.tries * tries.allowed,
    }


def _frozen(row: CertifiedRow, fitted: Fitted, image: Image) -> Classifier:
    """The classifier that answers this image: tuned on it as the run has tuned."""
    return tuned_on(fitted.defence, fitted.classifier, image, sigma=row.sigma, seed=row.seed, item=row.id)


def _rule(opened: Reopened, row: CertifiedRow) -> Smoothing:
    return next(rule for rule in opened.bench.levels if rule.sigma == row.sigma)


def _image(opened: Reopened, row: CertifiedRow) -> Image:
    data = opened.bench.data
    return data.read(data.ids.index(row.id)).to(opened.bench.model.device)


def _finding(row: CertifiedRow, sentence: str) -> Block:
    return {"defence": row.name, "id": row.id, "sigma": row.sigma, "sentence": sentence}
