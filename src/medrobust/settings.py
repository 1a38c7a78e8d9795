"""Settings that a user gives for several recipes at once."""

from collections.abc import Iterable, Mapping
from typing import Any

from medrobust.errors import ConfigError, nearest


def spread(fields: Mapping[str, Iterable[str]], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What each name is told: a setting `KEY` goes to all that have this field, `NAME.KEY` to one, and wins.

    Raises ConfigError for a setting that none has.

    >>> spread({"linear": ["lr"], "ran": ["lr", "eps"]}, {"lr": 1, "ran.lr": 2, "eps": 3})
    {'linear': {'lr': 1}, 'ran': {'lr': 2, 'eps': 3}}
    """
    known = {f"{name}.{key}": (name, key) for name, keys in fields.items() for key in keys}
    chosen: dict[str, dict[str, Any]] = {name: {} for name in fields}
    for setting in sorted(given, key=lambda text: "." in text):  # what is said of one is read last, and wins
        places = [place for full, place in known.items() if setting in (full, place[1])]
        if not places:
            keys = dict.fromkeys(key for _, key in known.values())
            near = nearest(setting, [*keys, *known])
            raise ConfigError(f"none of {', '.join(fields)} has a setting {setting!r}{near}")
        for name, key in places:
            chosen[name][key] = given[setting]
    return chosen
