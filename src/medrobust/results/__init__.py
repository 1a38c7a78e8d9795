"""The results of a run: rows, tables, and the report; all without torch."""

from medrobust.results.journal import Journal as Journal
from medrobust.results.rows.certified import CERTIFIED as CERTIFIED
from medrobust.results.rows.certified import CertifiedKey as CertifiedKey
from medrobust.results.rows.certified import CertifiedRow as CertifiedRow
from medrobust.results.rows.certified import read_rows as read_rows
from medrobust.results.rows.certified import recompute as recompute
from medrobust.results.summary import AttackedSummary as AttackedSummary
from medrobust.results.summary import CertifiedSummary as CertifiedSummary
from medrobust.results.summary import RunSummary as RunSummary
from medrobust.results.summary import read_summary as read_summary
from medrobust.results.summary import write_summary as write_summary
from medrobust.results.tables import PairedGain as PairedGain
from medrobust.results.tables import paired_gain as paired_gain
from medrobust.results.tables import summarise as summarise
