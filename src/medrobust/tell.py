"""Messages of running work: sentences, progress, and the question whether to go on. No torch here."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Tell:
    """Receivers of the messages of a piece of work; the defaults drop everything.

    `say` takes a sentence, `progress` a title with done and total, and `cancelled` is asked between units of work.
    """

    say: Callable[[str], None] = lambda _text: None
    progress: Callable[[str, int, int], None] = lambda _title, _done, _total: None
    cancelled: Callable[[], bool] = lambda: False


SILENT = Tell()
