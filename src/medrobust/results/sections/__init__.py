"""The sections of a run's report, in the order of the page; a new one is a file with its template, and a line here."""

from medrobust.results.report import MakeSection
from medrobust.results.sections.attacked import attacked
from medrobust.results.sections.audited import audited
from medrobust.results.sections.certificates import certificates
from medrobust.results.sections.headline import headline
from medrobust.results.sections.meaning import meaning
from medrobust.results.sections.settings import settings
from medrobust.results.sections.together import together

SECTIONS: tuple[MakeSection, ...] = (headline, together, certificates, attacked, audited, meaning, settings)
