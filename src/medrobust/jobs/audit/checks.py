"""Checks of an audit, one unit each: records recomputed, certificates attacked and redrawn, border images tried."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from medrobust.attacks.smoothadv import smooth_adv
from medrobust.data.pictures import pictures
from medrobust.jobs.certify import Certifying
from medrobust.jobs.fitting import Fitted, tuned_on
from medrobust.jobs.parts import AuditSettings
from medrobust.results import CertifiedRow
from medrobust.results.audit_summary import Pictures
from medrobust.results.rows.audited import AttackTried, AuditRow, BorderTried, Redrawn
from medrobust.seeds import stream
from medrobust.smoothing.audit import attempts, decision_border
from medrobust.smoothing.audit.attempts import LEVEL, Attempt
from medrobust.smoothing.audit.claims import Claim, doubts
from medrobust.smoothing.audit.decision_border import Tries
from medrobust.smoothing.certify import Smoothing, certify, count_votes
from medrobust.smoothing.sampling import Draws
from medrobust.types import Classifier, Image


class Audited(NamedTuple):
    """A run under audit: its rows by check, and the run that made them (None for records alone)."""

    rows: Sequence[CertifiedRow]
    settings: AuditSettings
    attacked: Sequence[CertifiedRow] = ()
    redrawn: Sequence[dict[str, CertifiedRow]] = ()  # an image at a noise level: its rows by defence
    opposed: Sequence[Sequence[tuple[CertifiedRow, CertifiedRow]]] = ()  # candidates for each border image
    run: Certifying | None = None

    @property
    def opened(self) -> Certifying:
        """The run's model, images and defences."""
        assert self.run is not None, "records alone need no model"  # noqa: S101  (a plan without units of other checks)
        return self.run


def audit_record(row: CertifiedRow) -> AuditRow:
    """The radius, from its record alone."""
    return AuditRow(
        check="record", id=row.id, sigma=row.sigma, defence=row.name, scope=row.scope, found=None,
        sentences=tuple(doubts(row)),
    )  # fmt: skip


def audit_attack(audited: Audited, row: CertifiedRow) -> tuple[AuditRow, Pictures]:
    """SmoothAdv inside a certified radius, and pictures where it broke something.

    Where prompts are tuned on the input, the answer tuned again at the attacked image is told as well.
    """
    fitted, image = _fitted(audited, row), _image(audited, row)
    tried = _attempt(audited, row, image, fitted)
    sentence = (
        f"at distance {tried.distance:.6f}, inside its radius {row.radius:.6f}, class {row.prediction} has only "
        f"{tried.votes} of {tried.trials} votes under fresh noise"
    )
    found = AttackTried(
        distance=tried.distance, votes=tried.votes, trials=tried.trials, broken=tried.broken, retuned=tried.retuned
    )
    told = AuditRow(
        check="attack", id=row.id, sigma=row.sigma, defence=row.name, scope=fitted.defence.scope, found=found,
        sentences=(sentence,) if tried.broken else (),
    )  # fmt: skip
    return told, pictures(image, tried.attacked) if tried.broken else {}


def _attempt(audited: Audited, row: CertifiedRow, image: Image, fitted: Fitted) -> Attempt:
    settings = audited.settings
    retune: Callable[[Image], Classifier] | None = None
    if fitted.defence.tune is not None:
        retune = partial(_frozen, row, fitted)
    adversary = partial(
        smooth_adv, steps=settings.steps, draws=settings.draws, restarts=settings.restarts,
        batch=min(64, settings.draws),
    )  # fmt: skip
    return attempts.attack_inside(
        _frozen(row, fitted, image),
        image,
        row,
        adversary,
        draws=Draws(row.sigma, settings.judge, "audit", settings.seed, row.id),
        level=LEVEL / len(audited.attacked),
        generator=stream(settings.seed, f"audit attack {fitted.name}", row.id, row.sigma),
        sampler=audited.opened.sampler,
        retune=retune,
    )


def audit_redraw(audited: Audited, there: dict[str, CertifiedRow]) -> Iterator[AuditRow]:
    """Certificates made again: with their own seed the same, with others seldom contradicted by a large count."""
    opened, settings = audited.opened, audited.settings
    one = next(iter(there.values()))
    image, rule = _image(audited, one), _rule(audited, one)
    classifiers = [_frozen(one, fitted, image) for fitted in opened.fitted]  # all of them, as the run had
    own = certify(classifiers, image, rule, seed=one.seed, item=one.id, sampler=opened.sampler)
    others = attempts.redraw(
        classifiers, image, rule, seed=settings.seed, item=one.id, repeats=settings.repeats, sampler=opened.sampler
    )
    large = Draws(rule.sigma, settings.reference, "audit reference", settings.seed, one.id)
    counts = count_votes(classifiers, image, large, opened.sampler)
    for fitted, mine, new, votes in zip(opened.fitted, own, others, counts, strict=True):
        if fitted.name not in there:
            continue
        row = there[fitted.name]
        claims: list[Claim] = [row, *new]
        wrong = [attempts.contradicted(claim, votes, large.trials) for claim in claims]
        changes = attempts.differing(mine, row)
        yield AuditRow(
            check="redraw", id=row.id, sigma=row.sigma, defence=row.name, scope=row.scope,
            found=Redrawn(differs=bool(changes), redrawn=len(wrong), contradicted=sum(wrong), alpha=row.alpha),
            sentences=(f"drawn again from its own seed it is another: {'; '.join(changes)}",) if changes else (),
        )  # fmt: skip


def audit_border(audited: Audited, pairs: Sequence[tuple[CertifiedRow, CertifiedRow]]) -> Iterator[AuditRow]:
    """The stated error probability at an image between two classes: on the first line that has one; none after it."""
    found = False
    for one, two in pairs:
        tries = None if found else _tries(audited, one, two)
        found = found or tries is not None
        yield AuditRow(
            check="border", id=one.id, to=two.id, sigma=one.sigma, defence=one.name, scope=one.scope,
            found=BorderTried(
                tries=tries.tries if tries else 0, certified=tries.certified if tries else 0,
                allowed=tries.allowed if tries else 0.0, alpha=decision_border.ALPHA,
            ),
            sentences=tuple(f"{text} (on the line to {two.id})" for text in _doubts_of(tries)) if tries else (),
        )  # fmt: skip


def _tries(audited: Audited, one: CertifiedRow, two: CertifiedRow) -> Tries | None:
    settings, sampler = audited.settings, audited.opened.sampler
    image, item = _image(audited, one), f"audit {one.id} to {two.id}"
    classifier, answer = _frozen(one, _fitted(audited, one), image), one.prediction or 0
    small = attempts.small_batches(sampler)
    where = Draws(one.sigma, 1, "audit line", settings.seed, item)
    tips = decision_border.border_image(
        classifier, image, _image(audited, two), answer, draws=where, sampler=small
    )  # fmt: skip
    if tips is None:
        return None
    return decision_border.try_often(
        classifier, tips, _rule(audited, one), tries=settings.tries, reference=settings.reference, seed=settings.seed,
        item=item, sampler=sampler, level=LEVEL / settings.border,
    )  # fmt: skip


def _doubts_of(tries: Tries) -> list[str]:
    told = []
    if tries.too_often:
        told.append(
            f"a border image is certified in {tries.certified} of {tries.tries} tries at "
            f"alpha = {decision_border.ALPHA:g}, where at most {100 * tries.allowed:.1f} % are to be expected"
        )
    if tries.dependent:
        told.append(
            "the votes know which class was chosen: at a border image they exceed one half by "
            f"{100 * tries.excess:.1f} points; draws that chose the class are counted again"
        )
    return told


def _fitted(audited: Audited, row: CertifiedRow) -> Fitted:
    return next(fitted for fitted in audited.opened.fitted if fitted.name == row.name)


def _frozen(row: CertifiedRow, fitted: Fitted, image: Image) -> Classifier:
    """The classifier that answers this image: tuned on it as the run has tuned."""
    return tuned_on(fitted.defence, fitted.classifier, image, sigma=row.sigma, seed=row.seed, item=row.id)


def _rule(audited: Audited, row: CertifiedRow) -> Smoothing:
    return next(rule for rule in audited.opened.bench.levels if rule.sigma == row.sigma)


def _image(audited: Audited, row: CertifiedRow) -> Image:
    bench = audited.opened.bench
    return bench.data.read(bench.data.ids.index(row.id)).to(bench.model.device)
