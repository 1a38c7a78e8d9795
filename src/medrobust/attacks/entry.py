"""One line of the registry of attacks, and the settings that a user may give by name."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple, get_type_hints

from pydantic import TypeAdapter, ValidationError

from medrobust.attacks.attack import Attack
from medrobust.attacks.ball import Distance
from medrobust.attacks.errors import AttackError
from medrobust.errors import nearest
from medrobust.words import eps_text


class AttackEntry(NamedTuple):
    """An attack with its usual settings, its source, and the fields that its name alone decides.

    `default` is a frozen dataclass. All its fields but those in `fixed` are settings: their types, and ranges given as
    `Annotated[int, pydantic.Field(ge=1)]`, are checked; a field of type `Distance` takes text such as `8/255`.
    """

    title: str
    reference: str
    default: Attack
    fixed: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting with its usual value."""
        free = [field.name for field in fields(self.default) if field.name not in self.fixed]
        return {name: getattr(self.default, name) for name in free}

    def checked(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """The given settings as the attack takes them, in the order of its fields, without those that are usual anyway.

        Raises AttackError for an unknown setting, with the nearest known one, and for a value of another type or range.
        """
        known, types = self.settings, get_type_hints(type(self.default), include_extras=True)
        for key in given:
            if key not in known:
                raise AttackError(
                    f"{name} has no setting {key!r}{nearest(key, known)}; it has {', '.join(known) or 'none'}"
                )
        values = {key: _value(f"{name}: {key}", types[key], given[key]) for key in known if key in given}
        return {key: value for key, value in values.items() if value != known[key]}

    def made(self, name: str, given: Mapping[str, Any]) -> Attack:
        """The attack with these settings. Raises AttackError as `checked` does, and for settings that disagree."""
        try:
            return replace(self.default, **self.checked(name, given))
        except AttackError as error:
            raise type(error)(str(error) if str(error).startswith(name) else f"{name}: {error}") from error

    def called(self, name: str, given: Mapping[str, Any]) -> str:
        """The attack's name, with the settings that are not the usual ones: `pgd(steps=20,step=2/255)`."""
        types = get_type_hints(type(self.default), include_extras=True)
        told = [f"{key}={_text(types[key], value)}" for key, value in self.checked(name, given).items()]
        return f"{name}({','.join(told)})" if told else name


def _value(where: str, kind: Any, given: Any) -> Any:
    try:
        return TypeAdapter(kind).validate_python(given, strict=True)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise AttackError(f"{where} = {given!r}: {reason.lower()}") from error


def _text(kind: Any, value: Any) -> str:
    """As a user writes it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if kind in (Distance, Distance | None):
        return eps_text(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
