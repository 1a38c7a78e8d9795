"""Where work speaks: sentences, progress, and whether it is still wanted. No torch here."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Tell:
    """Receivers of what a piece of work says; the defaults drop everything.

    `say` takes a sentence, `progress` a title with done and total, and `cancelled` is asked between units of work.
    """

    say: Callable[[str], None] = lambda _text: None
    progress: Callable[[str, int, int], None] = lambda _title, _done, _total: None
    cancelled: Callable[[], bool] = lambda: False


SILENT = Tell()
