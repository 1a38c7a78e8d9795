"""Resume a run from its folder alone: the settings that stand there say what is carried on."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from medrobust.errors import RunError
from medrobust.jobs import KINDS, kind_of
from medrobust.jobs.bench import as_begun
from medrobust.jobs.executors import here
from medrobust.jobs.experiment import PARTS, Experiment
from medrobust.jobs.folder import RunFolder
from medrobust.jobs.job import Execute, Kind, carry_out
from medrobust.results import read_summary
from medrobust.tell import SILENT, Tell


@dataclass(frozen=True)
class Standing:
    """The content of a run folder: settings of one kind of job, or an experiment with its parts."""

    folder: Path
    kind: Kind[Any, Any, Any, Any]
    settings: BaseModel

    @property
    def threads(self) -> int | None:
        """The CPU threads that the run has recorded, else those that it was asked to use; None: all there are."""
        recorded: Mapping[str, Any] = RunFolder(self.folder).environment.get("environment", {})
        found = recorded.get("threads") or getattr(self.settings, "threads", None)
        return None if found is None else int(found)


def standing_in(folder: Path) -> Standing:
    """The job that a run folder holds. Raises RunError where there is none, with what to do instead."""
    kinds = [kind_of(name) for name in KINDS]
    for kind in kinds:
        if (folder / kind.settings_file).exists():
            return Standing(folder, kind, RunFolder(folder).settings(kind.settings, kind.settings_file))
    inside = sorted(path.parent.name for path in folder.glob("*/experiment.yaml"))
    if inside:
        raise RunError(
            f"{folder} compares runs and holds none itself; give the same `medrobust probe` command again, or resume "
            f"one of {', '.join(inside)}"
        )
    files = ", ".join(dict.fromkeys(kind.settings_file for kind in kinds))
    raise RunError(f"{folder} is no run folder: expected one of {files} in it; begin a run there with --out {folder}")


def resume(standing: Standing, *, execute: Execute = here, tell: Tell = SILENT) -> Any:
    """Do what is not yet done of a run, and return its summary. Raises MedrobustError.

    Where a later command asked for fewer images than there are rows of a part, the part keeps its own number.
    """
    settings = standing.settings
    if not isinstance(settings, Experiment):
        return carry_out(standing.kind, settings, standing.folder, execute=execute, tell=tell)
    for part in settings.parts:
        kind = kind_of(part)
        own = as_begun(settings, standing.folder / kind.rows_file, kind.form)
        carry_out(kind, own, standing.folder, execute=execute, tell=tell)
    if not settings.parts:
        raise RunError(f"{standing.folder} has no part to carry on; give its experiment one of {', '.join(PARTS)}")
    return read_summary(standing.folder / "summary.json")
