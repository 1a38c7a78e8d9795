"""Commands that attack: attack, evaluate, and what attacks there are."""

from pathlib import Path
from typing import Any

from medrobust.cli.app import KNOWN, RUNS, Json, Out, SetValues, Transfer, carry_out, command, listing
from medrobust.cli.certify import PLAIN
from medrobust.cli.options import RUN, Options, with_options
from medrobust.errors import ConfigError
from medrobust.jobs.experiment import Experiment
from medrobust.jobs.parts import AttackSettings, CertifySettings


@command(RUNS)
@with_options(
    Options(
        Experiment, RUN, without=PLAIN, defaults={"data": None, "defences": []},
        help={"data": "As for certify; without it, the run in OUT is attacked."},
    ),
    Options(AttackSettings, "Attack", defaults={"eps": ["8/255"]}),
)  # fmt: skip
def attack(
    out: Out,
    given: dict[type, dict[str, Any]],
    set_: SetValues = [],  # noqa: B006 - typer copies it
    transfer: Transfer = False,
    as_json: Json = False,
) -> None:
    """Attack images under one or several defences; what no attack breaks is robust accuracy."""
    from medrobust.cli.choices import experiment_of

    _add_settings(given[AttackSettings], set_)
    asked = given[Experiment]
    if asked["data"] is None:
        experiment = _experiment_in(out, asked["limit"], asked["defences"])
        attacked = experiment_of({**given, Experiment: {}}, attack=AttackSettings)
        experiment = experiment.model_copy(update={"attack": attacked.attack, "certify": None, "audit": None})
    else:
        asked |= {"defences": asked["defences"] or ["zero-shot"]}
        experiment = experiment_of(given, transfer=transfer, attack=AttackSettings)
    carry_out(experiment, out, as_json)


@command(RUNS)
@with_options(
    Options(Experiment, RUN, without=PLAIN, required=("data", "defences")),
    Options(
        AttackSettings, "Attack", without=("sigma",), defaults={"eps": ["1/255"]}, names={"batch": ("--attack-batch",)}
    ),
    Options(CertifySettings, "Certificates"),
)
def evaluate(
    out: Out,
    given: dict[type, dict[str, Any]],
    set_: SetValues = [],  # noqa: B006 - typer copies it
    transfer: Transfer = False,
    as_json: Json = False,
) -> None:
    """Attack and certify the same images under several defences: clean, robust and certified accuracy in one table."""
    from medrobust.cli.choices import experiment_of

    _add_settings(given[AttackSettings], set_)
    experiment = experiment_of(given, transfer=transfer, attack=AttackSettings, certify=CertifySettings)
    carry_out(experiment, out, as_json)


@command(KNOWN)
def attacks(as_json: Json = False) -> None:
    """List the attacks, what they need, their settings, and where they come from."""
    import yaml

    from medrobust.attacks import ATTACKS

    rows = []
    for name, entry in ATTACKS.items():
        settings = entry.settings
        told = ", ".join(f"{key}={yaml.safe_dump(value).split()[0]}" for key, value in settings.items())
        rows.append({
            "name": name, "title": entry.title, "needs gradients": "yes" if entry.default.needs_gradients else "no",
            "fewest classes": entry.default.fewest_classes, "settings": settings if as_json else told,
            "reference": entry.reference,
        })  # fmt: skip
    listing(rows, as_json)


def _add_settings(attack: dict[str, Any], texts: list[str]) -> None:
    """Put what `--set` says of the attacks beside their names."""
    from medrobust.cli.choices import settings_of_attacks

    attack |= {"settings": settings_of_attacks(attack["attacks"], texts)}


def _experiment_in(out: Path, limit: int | None, defences: list[str]) -> Experiment:
    """The experiment that a run folder holds, for `limit` images."""
    from medrobust.jobs.experiment import load_experiment

    path = out / "experiment.yaml"
    if not path.exists():
        raise ConfigError(f"{out} holds no run whose images could be attacked; name images with --data")
    if defences:
        raise ConfigError(f"without --data the defences of the run in {out} are attacked; leave out --defence")
    experiment = load_experiment(path)
    return experiment if limit is None else experiment.model_copy(update={"limit": limit})
