"""The parts of an experiment: settings to certify, to attack, to audit. One model each; no torch here."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from medrobust.settings import option
from medrobust.smoothing.grid import RADII
from medrobust.words import eps_text

if TYPE_CHECKING:
    from medrobust.attacks.ball import Ball

ROWS = {
    "certify": "certified.jsonl",
    "attack": "attacked.jsonl",
    "audit": "audited.jsonl",
}  # by part: where the rows of a run folder stand


class CertifySettings(BaseModel):
    """Settings of randomized smoothing. Reference: Cohen et al., ICML 2019; docs/certificates.md for `stopping`."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    sigmas: tuple[float, ...] = option(
        (0.25,), "Noise level in pixels of [0, 1]; repeat for several.", names=("--sigma",), min_length=1
    )
    alpha: float = option(0.001, "Probability that a certificate is false, for each image.")
    selection: int = option(100, "Draws that choose the class, at most.", names=("--selection", "--n0"))
    draws: int = option(10_000, "Draws that are counted for each image, at most.", names=("--draws", "--n"))
    stopping: Literal["fixed", "spending", "anytime"] = option(
        "spending", "spending: stop once every radius is decided; anytime: the same, any radius; fixed: never."
    )
    look: int = option(32, "Draws between two looks at a count.")
    radii: tuple[float, ...] = option(
        RADII, "Radii to certify: one, or several with commas, 0,0.25,0.5; fewer cost less.", takes="commas"
    )
    batch: int | None = option(
        None, "Noisy copies in one encoder pass; measured when the run begins unless given.", resume="recorded", ge=1
    )
    lean: bool = option(True, "The fast path for vision transformers.")
    compile: bool | None = option(
        None, "Compile the encoder; where a run is long enough unless said.", resume="recorded"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = option(
        "float32", "Number format of the encoder's forward pass; the noise is float32."
    )

    @property
    def told_anew(self) -> tuple[str, ...]:
        """Fields that may differ when a run goes on, because its rows are the same: radii, where none stops early."""
        return ("radii",) if self.stopping == "fixed" else ()

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "CertifySettings":
        if not self.lean and (self.dtype != "float32" or self.compile):
            raise ValueError("only the lean path knows other number formats and compiling; leave out lean: false")
        if len(set(self.sigmas)) < len(self.sigmas):
            raise ValueError("a sigma is named twice")
        return self


class AttackSettings(BaseModel):
    """Settings of an attack: attacks by name, one after the other at the images still right, in one or several balls.

    `eps` in pixels of [0, 1]. `sigma` is the noise with which prompts that are tuned on the input are tuned, on the
    clean image, before they are frozen and attacked; that of the certificates where the experiment also certifies.
    `settings` are those of each attack by its name, where they are not the usual ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    attacks: tuple[str, ...] = option(
        ("autoattack",), "A name from `medrobust attacks`; repeat, they run in this order.", names=("--attack",),
        min_length=1,
    )  # fmt: skip
    norm: str = option("linf", "Norm of the attack's ball: linf or l2.")
    eps: tuple[float, ...] = option(
        (8 / 255,),
        "Size of the ball in pixels of [0, 1]: 8/255 or 0.03; repeat for several.",
        takes="texts",
        unit="pixels",
        min_length=1,
    )
    sigma: float | None = option(
        None, "Noise under which prompts are tuned on the clean image, before the attack.", gt=0
    )
    batch: int = option(64, "Images attacked at once; it decides how floating-point sums are rounded.", ge=1)
    settings: dict[str, dict[str, Any]] = option({}, "Settings by attack: {pgd: {steps: 20, step: 2/255}}.")

    @field_validator("norm", mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        from medrobust.attacks.ball import Ball

        return Ball.parse(value, 0.01).norm if isinstance(value, str) else value

    @field_validator("eps", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        from medrobust.attacks.ball import parse_sizes

        return parse_sizes(value)

    @field_validator("settings")
    @classmethod
    def _checked(cls, value: dict[str, dict[str, Any]], info: Any) -> dict[str, dict[str, Any]]:
        """In the order of the attacks, without those that are usual anyway. Raises AttackError."""
        from medrobust.attacks import ATTACKS, AttackError, make_attack

        attacks = info.data.get("attacks", ())
        other = next((name for name in value if name not in attacks), None)
        if other is not None:
            raise AttackError(
                f"there are settings for {other}, which is not among the attacks ({', '.join(attacks)}); name it there "
                "too, or leave its settings out"
            )
        given = {name: value[name] for name in attacks if name in value}
        for name, part in given.items():
            make_attack(name, part)
        checked = {name: ATTACKS[name].checked(name, part) for name, part in given.items()}
        return {name: part for name, part in checked.items() if part}

    @property
    def balls(self) -> "tuple[Ball, ...]":
        """The smallest first. Raises AttackError for an eps that cannot be meant."""
        from medrobust.attacks.ball import Ball

        return tuple(Ball.parse(self.norm, eps) for eps in self.eps)

    @property
    def told(self) -> str:
        """The balls in a sentence: `linf 1/255, 4/255`."""
        return f"{self.norm} {', '.join(map(eps_text, self.eps))}"

    @property
    def name(self) -> str:
        """The name of the set in tables: `pgd(steps=20)+square`."""
        if not self.settings:
            return "+".join(self.attacks)
        from medrobust.attacks import ATTACKS

        given = self.settings
        return "+".join(ATTACKS[one].called(one, given[one]) if one in given else one for one in self.attacks)


class AuditSettings(BaseModel):
    """Sample sizes of an audit; its checks are honest at any of them, and sharper at larger ones.

    With other settings an audit begins anew.
    """

    begins_anew: ClassVar[bool] = True

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    attacks: int = option(20, "Certificates attacked, for each defence.", ge=0)
    redraws: int = option(10, "Images, each at one noise level, certified again with other seeds.", ge=0)
    border: int = option(4, "Images between two classes, certified many times.", ge=0)
    steps: int = option(10, "Steps of an attack.", ge=1)
    draws: int = option(32, "Noisy copies behind each step of an attack.", ge=1)
    restarts: int = option(2, "Restarts of an attack.", ge=1)
    judge: int = option(2_000, "Fresh draws that decide whether an attack has succeeded.", ge=1)
    repeats: int = option(2, "Other seeds, for each image that is certified again.", ge=0)
    reference: int = option(10_000, "Fresh draws that radii and border images are held against.", ge=1)
    tries: int = option(200, "Certificates of a border image.", ge=1)
    seed: int = option(0, "Samples, attacks and fresh noise follow from it.")
    records_only: bool = option(False, "Recompute the records alone, without model and images.")
    certificates: str = option("", "Hash of the certificates that are audited.", takes="nothing")

    @property
    def an_attack(self) -> int:
        """Encoder passes of one attack, a gradient counted as two more."""
        return self.restarts * self.draws * (3 * self.steps + 1)

    @property
    def a_border(self) -> int:
        """Encoder passes of one border image, counted for a rule that may stop early."""
        return 10 * 512 + self.reference + self.tries * 4 * 64
