"""A run's certificates put to the test: recomputed, attacked inside their radius, drawn again; kept in audit.json."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medrobust.files import replace_text
from medrobust.jobs.audit.checks import Block, attacks, borders, records, redraws
from medrobust.jobs.audit.depth import Depth as Depth
from medrobust.jobs.certify import Reopened, reopen
from medrobust.results import CertifiedRow, read_rows
from medrobust.results.folder import republish
from medrobust.smoothing.encoding import seconds_a_copy
from medrobust.tell import Tell
from medrobust.words import duration

SCHEMA_VERSION = 1

Audit = dict[str, Any]  # as in audit.json


def audit(folder: Path, depth: Depth | None = None, *, reporter: Tell | None = None) -> Audit:
    """Check a run's certificates, keep what was found in audit.json, and tell it in the run's report.

    What is finished stays when it is interrupted; `complete` says whether all was done. Raises MedrobustError.
    """
    depth, tell = depth or Depth(), reporter or Tell()
    rows = read_rows(folder / "certified.jsonl")
    expected = forecast(rows, depth)
    tell.say(expected.told)
    found: Audit = {"schema_version": SCHEMA_VERSION, "complete": False, "rows": len(rows), "settings": asdict(depth)}
    found["scopes"] = {row.name: row.scope for row in rows}
    _keep_each(folder, found, "records", records(rows, tell))
    if not depth.records_only:
        opened = reopen(folder, tell)
        tell.say(f"about {_time(expected.passes, opened)} here")
        _keep_each(folder, found, "attacks", attacks(rows, opened, depth, tell))
        _keep_each(folder, found, "redraws", redraws(rows, opened, depth, tell))
        _keep_each(folder, found, "borders", borders(rows, opened, depth, tell))
    found["complete"] = True
    _keep(folder, found)
    republish(folder)
    return found


@dataclass(frozen=True)
class Forecast:
    """What an audit will do, in a sentence, and in noisy copies of images to encode."""

    passes: int
    told: str


def forecast(rows: Sequence[CertifiedRow], depth: Depth) -> Forecast:
    """From the records alone; an encoder each."""
    said = f"recompute {len(rows)} radii"
    if depth.records_only or not rows:
        return Forecast(0, f"{said} from their records; neither model nor images are needed")
    defences = {row.name: row.scope for row in rows}
    tuned = sum(scope != "model" for scope in defences.values())
    attacked = sum(min(depth.attacks, sum(row.name == name and row.radius > 0 for row in rows)) for name in defences)
    typical = sum(row.drawn + row.selection for row in rows) / len(rows)
    again = min(depth.redraws, len({(row.id, row.sigma) for row in rows}))
    passes = attacked * (depth.an_attack + depth.judge * (1 + tuned / len(defences)))
    passes += again * ((1 + depth.repeats) * typical + depth.reference) + depth.border * depth.a_border
    told = (
        f"{said}, attack {attacked} certificates inside their radius, certify {again} images again, and try "
        f"{depth.border} border images {depth.tries} times each: about {passes:,.0f} encoder passes, as many as "
        f"certifying {passes / typical:,.0f} images"
    )
    return Forecast(int(passes), told)


def _time(passes: int, opened: Reopened) -> str:
    image = opened.bench.data.read(0).to(opened.bench.model.device)
    level = opened.bench.levels[0]
    first = [opened.fitted[0].classifier]
    seconds = passes * seconds_a_copy(first, image, level, opened.sampler)
    return duration(seconds)


def _keep_each(folder: Path, found: Audit, name: str, blocks: Iterator[Block]) -> None:
    for block in blocks:
        found[name] = block
        _keep(folder, found)


def _keep(folder: Path, found: Audit) -> None:
    replace_text(folder / "audit.json", json.dumps(found, indent=2, allow_nan=False) + "\n")
