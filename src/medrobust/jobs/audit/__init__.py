"""Audit: a run's certificates recomputed, attacked inside their radius and drawn again; rows in audited.jsonl."""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from medrobust.errors import ConfigError, RunError
from medrobust.files import replace_text
from medrobust.jobs.audit import sample
from medrobust.jobs.audit.checks import Audited, audit_attack, audit_border, audit_record, audit_redraw
from medrobust.jobs.certify import CERTIFY, Certifying
from medrobust.jobs.executors import here
from medrobust.jobs.experiment import Experiment, load_experiment
from medrobust.jobs.folder import RunFolder
from medrobust.jobs.job import NOTHING, Done, Execute, Given, Kind, Notes, Opening, Unit, Work, carry_out, reopen
from medrobust.jobs.parts import AuditSettings
from medrobust.results import CertifiedRow, read_rows
from medrobust.results.audit_summary import AuditSummary, Pictures
from medrobust.results.audited import summarise_audit
from medrobust.results.folder import republish
from medrobust.results.rows.audited import AUDITED, AuditKey, AuditRow, BorderTried, read_audited
from medrobust.smoothing.encoding import seconds_a_copy
from medrobust.tell import SILENT, Tell
from medrobust.words import duration

ROWS = "audited.jsonl"
_PICTURES = "audit-pictures.json"  # of broken certificates
_CANDIDATES = 5  # pairs of images for each border image


def audit(
    folder: Path | str,
    settings: AuditSettings | None = None,
    *,
    execute: Execute = here,
    tell: Tell = SILENT,
    given: Given = NOTHING,
) -> AuditSummary:
    """Check a run's certificates, write the result to audit.json, and add it to the run's report.

    An interrupted audit goes on; one with other settings begins anew. Raises MedrobustError.
    """
    folder = Path(folder)
    path = folder / "experiment.yaml"
    if not path.exists():
        raise RunError(f"{folder} is not a run folder: it has no experiment.yaml")
    experiment = load_experiment(path).model_copy(update={"audit": settings or AuditSettings()})
    return carry_out(AUDIT, experiment, folder, execute=execute, tell=tell, given=given)


def audit_of(experiment: Experiment) -> AuditSettings:
    """The audit settings of an experiment. Raises ConfigError where it has none."""
    if experiment.audit is None:
        raise ConfigError("the experiment has no part `audit`")
    return experiment.audit


def open_audit(opening: Opening[Experiment]) -> Audited:
    """The certificates to check, and the run that made them. Raises RunError where there are none."""
    folder, settings, tell = opening.folder, audit_of(opening.settings), opening.tell
    rows = read_rows(folder.path / "certified.jsonl")
    if opening.learn:
        tell.say(audit_forecast(rows, settings).told)
    audited = Audited(rows, settings)
    if not settings.records_only:
        pairs = list(islice(sample.opposed(rows, settings.seed), _CANDIDATES * settings.border))
        audited = audited._replace(
            attacked=[row for few in sample.certified(rows, settings.attacks, settings.seed).values() for row in few],
            redrawn=sample.levels(rows, settings.redraws, settings.seed),
            opposed=[pairs[place :: settings.border] for place in range(min(settings.border, len(pairs)))],
            run=reopen(CERTIFY, folder, tell, opening.given),
        )
    if opening.learn:
        _forget_others(folder, audit_units(audited))
    return audited


def _forget_others(folder: RunFolder, units: Sequence[Unit]) -> None:
    """Remove the rows of an audit of other certificates: a run that was extended since is audited anew."""
    path, plan = folder.path / ROWS, [key for unit in units for key in unit.keys]
    there = [row.key for row in read_audited(path)] if path.exists() else []
    if there != plan[: len(there)]:
        path.unlink()
    if not path.exists():
        (folder.path / _PICTURES).unlink(missing_ok=True)


def audit_units(audited: Audited) -> list[Unit]:
    """All records at once; then a unit a certificate attacked, an image drawn again, and a border image."""
    units = [Unit(tuple(AuditKey("record", row.id, row.sigma, row.name) for row in audited.rows), ("record", 0))]
    for place, row in enumerate(audited.attacked):
        units.append(Unit((AuditKey("attack", row.id, row.sigma, row.name),), ("attack", place)))
    for place, there in enumerate(audited.redrawn):
        keys = [AuditKey("redraw", row.id, row.sigma, row.name) for row in there.values()]
        units.append(Unit(tuple(keys), ("redraw", place)))
    for place, pairs in enumerate(audited.opposed):
        keys = [AuditKey("border", one.id, one.sigma, one.name, two.id) for one, two in pairs]
        units.append(Unit(tuple(keys), ("border", place)))
    return units


def audit_work(audited: Audited) -> Work[AuditRow]:
    """Carries out the check of a unit."""

    def work(unit: Unit) -> Done[AuditRow]:
        check, place = str(unit.what[0]), int(unit.what[1])
        match check:
            case "record":
                return Done([audit_record(row) for row in audited.rows])
            case "attack":
                row, shown = audit_attack(audited, audited.attacked[place])
                return Done([row], {"pictures": [[list(row.key), dict(shown)]]} if shown else {})
            case "redraw":
                return Done(list(audit_redraw(audited, audited.redrawn[place])))
        return Done(list(audit_border(audited, audited.opposed[place])))

    return work


class Forecast(NamedTuple):
    """An audit's plan in a sentence, and its cost in noisy copies of images to encode."""

    passes: int
    told: str


def audit_forecast(rows: Sequence[CertifiedRow], settings: AuditSettings) -> Forecast:
    """The forecast from the records alone; each defence is counted with an encoder of its own."""
    said = f"recompute {len(rows)} radii"
    if settings.records_only or not rows:
        return Forecast(0, f"{said} from their records; neither model nor images are needed")
    defences = {row.name: row.scope for row in rows}
    tuned = sum(scope != "model" for scope in defences.values())
    attacked = sum(min(settings.attacks, sum(row.name == name and row.radius > 0 for row in rows)) for name in defences)
    typical = sum(row.drawn + row.selection for row in rows) / len(rows)
    again = min(settings.redraws, len({(row.id, row.sigma) for row in rows}))
    passes = attacked * (settings.an_attack + settings.judge * (1 + tuned / len(defences)))
    passes += again * ((1 + settings.repeats) * typical + settings.reference) + settings.border * settings.a_border
    told = (
        f"{said}, attack {attacked} certificates inside their radius, certify {again} images again, and try "
        f"{settings.border} border images {settings.tries} times each: about {passes:,.0f} encoder passes, as many as "
        f"certifying {passes / typical:,.0f} images"
    )
    return Forecast(int(passes), told)


def audit_cost(audited: Audited, left: float) -> Sequence[str]:
    """The time that the checks still to come take, where there is a model to measure it with."""
    if audited.run is None:
        return []
    passes = audit_forecast(audited.rows, audited.settings).passes * left
    return [f"about {duration(passes * _seconds(audited.run))} here"]


def _seconds(opened: Certifying) -> float:
    bench, first = opened.bench, [opened.fitted[0].classifier]
    return seconds_a_copy(first, bench.data.read(0).to(bench.model.device), bench.levels[0], opened.sampler)


def keep_pictures(folder: RunFolder, notes: Notes) -> None:
    """Keep pictures of broken certificates, before their rows are written."""
    there = _read_pictures(folder.path)
    there |= {AuditKey(*key): shown for key, shown in notes["pictures"]}
    told = [[list(key), dict(shown)] for key, shown in there.items()]
    replace_text(folder.path / _PICTURES, json.dumps(told) + "\n")


def _read_pictures(folder: Path) -> dict[AuditKey, Pictures]:
    path = folder / _PICTURES
    found: list[Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    return {AuditKey(*key): shown for key, shown in found}


def tell_so_far(folder: RunFolder, audited: Audited, *, complete: bool = False) -> AuditSummary:
    """Write audit.json from the rows that there are, so that a report tells of an audit that was interrupted."""
    rows, settings = read_audited(folder.path / ROWS), audited.settings.model_dump(exclude={"certificates"})
    shown = _read_pictures(folder.path)
    found = summarise_audit(rows, audited.rows, settings, complete=complete, pictures=shown)
    replace_text(folder.path / "audit.json", found.to_text())
    return found


def publish_audit(folder: RunFolder, audited: Audited, tell: Tell) -> AuditSummary:
    """Write audit.json from the rows, and the run's report anew."""
    rows, settings = read_audited(folder.path / ROWS), audited.settings
    tried = sum(isinstance(row.found, BorderTried) and row.found.tries > 0 for row in rows)
    if tried < settings.border and not settings.records_only:
        tell.say(f"{tried} border images found: few images of one defence are certified for different classes")
    found = tell_so_far(folder, audited, complete=True)
    republish(folder.path)
    return found


def _of_these_certificates(folder: RunFolder, experiment: Experiment) -> Experiment:
    """With the hash of the certificates, so that an audit of others begins anew."""
    path = folder.path / "certified.jsonl"
    digest = sha256(path.read_bytes()).hexdigest() if path.exists() else ""
    settings = audit_of(experiment).model_copy(update={"certificates": digest})
    return experiment.model_copy(update={"audit": settings})


def _environment(audited: Audited) -> Mapping[str, Any]:
    return {} if audited.run is None else CERTIFY.environment(audited.run)


def _told(experiment: Experiment) -> str:
    settings = audit_of(experiment)
    if settings.records_only:
        return "audited by recomputing every radius"
    return (
        f"audited with {settings.attacks} attacks a defence, {settings.redraws} redraws and {settings.border} borders"
    )


AUDIT: Kind[Experiment, Audited, AuditRow, AuditSummary] = Kind(
    name="audit",
    settings=Experiment,
    settings_file="experiment.yaml",
    rows_file=ROWS,
    form=AUDITED,
    told=_told,
    open=open_audit,
    units=audit_units,
    cost=audit_cost,
    work=audit_work,
    keep=keep_pictures,
    after=tell_so_far,
    settle=_of_these_certificates,
    environment=_environment,
    publish=publish_audit,
)
