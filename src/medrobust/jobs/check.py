"""Labelled images looked at one by one, before any run on them: `medrobust data check`. Nothing is kept."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from medrobust.data.check.check import Listing, list_images, report
from medrobust.data.check.look import VERSION, Look, look_at
from medrobust.data.check.report import CheckReport
from medrobust.data.taskfile import load_task
from medrobust.jobs.check_settings import CheckSettings
from medrobust.jobs.executors import here
from medrobust.jobs.folder import RunFolder
from medrobust.jobs.job import NOTHING, Done, Execute, Given, Kind, Opening, Unit, Work, carry_out
from medrobust.models import load
from medrobust.results.journal import checked_form, read_journal
from medrobust.tell import SILENT, Tell
from medrobust.types import Preprocess

BLOCK = 32  # images of a unit
_ROWS = "looks.jsonl"
FORM = checked_form(Look, VERSION, parts="images", command="data check")


class Checking(NamedTuple):
    """The images of a source, and how the model would see them; `model` names it where it was loaded."""

    listing: Listing
    preprocess: Preprocess
    model: str | None


def check_images(
    settings: CheckSettings, *, execute: Execute = here, tell: Tell = SILENT, given: Given = NOTHING
) -> CheckReport:
    """Look at every image of a source, of all splits or of one, and tell what a run on it would meet.

    `given`: a `Preprocess` instead of the model, and a `Task` instead of the data's. Equal pictures are those whose
    decoded pixels are equal bit for bit. Raises `DataError` or `TaskError` where the source cannot be listed at all.
    """
    with TemporaryDirectory(prefix="medrobust-check-") as folder:
        return carry_out(CHECK, settings, Path(folder), execute=execute, tell=tell, given=given)


def open_check(opening: Opening[CheckSettings]) -> Checking:
    """List the images. Raises MedrobustError."""
    settings, given = opening.settings, opening.given
    task = given.data or (load_task(settings.task) if settings.task else None)
    preprocess = given.model or load(settings.model).preprocess
    listing = list_images(settings.data, task, settings.split)
    return Checking(listing, preprocess, None if given.model else settings.model)


def check_units(opened: Checking) -> list[Unit]:
    """A unit a block of images, decoded by several threads."""
    numbers = range(len(opened.listing.images))
    blocks = [numbers[start : start + BLOCK] for start in range(0, len(numbers), BLOCK)]
    return [Unit(tuple(block), (block.start, block.stop)) for block in blocks]


def check_work(opened: Checking) -> Work[Look]:
    """Looks at the images of a unit."""

    def work(unit: Unit) -> Done[Look]:
        start, stop = map(int, unit.what)
        return Done(look_at(opened.listing.images, range(start, stop), opened.preprocess))

    return work


def check_announcement(opened: Checking, _left: float) -> list[str]:
    """Says what is read."""
    listing = opened.listing
    return [f"check {listing.source}: read each of its {len(listing.images)} images once; nothing is written"]


def report_of(folder: RunFolder, opened: Checking, _tell: Tell) -> CheckReport:
    """The report on all images."""
    looks = read_journal(folder.path / _ROWS, FORM)
    return report(opened.listing, looks, opened.preprocess, model=opened.model)


CHECK: Kind[CheckSettings, Checking, Look, CheckReport] = Kind(
    name="check",
    settings=CheckSettings,
    settings_file="check.yaml",
    rows_file=_ROWS,
    form=FORM,
    open=open_check,
    units=check_units,
    cost=check_announcement,
    work=check_work,
    environment=lambda _opened: {},
    publish=report_of,
)
