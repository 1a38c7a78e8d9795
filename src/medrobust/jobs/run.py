"""Carry out an experiment: every part that stands in it, into one folder."""

from pathlib import Path
from typing import Any

from medrobust.errors import ConfigError
from medrobust.jobs import kind_of
from medrobust.jobs.bench import as_given
from medrobust.jobs.executors import here
from medrobust.jobs.experiment import PARTS, Experiment
from medrobust.jobs.job import Execute, Given, carry_out
from medrobust.results import RunSummary, read_summary
from medrobust.tell import SILENT, Tell


def run(
    experiment: Experiment,
    out: Path | str,
    *,
    model: Any = None,
    data: Any = None,
    fit_data: Any = None,
    execute: Execute = here,
    tell: Tell = SILENT,
) -> RunSummary:
    """Carry out the parts of an experiment in `out`, and return the summary; an interrupted run goes on.

    `model`, `data` and `fit_data` (what defences learn from) stand in for those that the experiment names. Raises
    MedrobustError, with everything already written intact.
    """
    if not experiment.parts:
        raise ConfigError(f"the experiment has no part to carry out; give it one of {', '.join(PARTS)}")
    out, given = Path(out), Given(model, data, fit_data)
    experiment = as_given(experiment, given)
    kinds = [kind_of(part) for part in experiment.parts]
    for kind in kinds:
        kind.check(experiment)
    if len(kinds) > 1:
        names = ", ".join(choice.name for choice in experiment.defences)
        told = ", then ".join(kind.told(experiment) for kind in kinds)
        tell.say(f"evaluate {names} with {experiment.model}: {told}; each part says first what it costs")
    for kind in kinds:
        carry_out(kind, experiment, out, execute=execute, tell=tell, given=given)
    return read_summary(out / "summary.json")
