"""Errors of an attack that a user can mend."""

from medrobust.errors import MedrobustError


class AttackError(MedrobustError):
    """The ball, the images, the labels or the classifier cannot be used by this attack."""


class NoGradientError(AttackError):
    """No gradient reaches the pixels, so only black-box attacks can run."""
