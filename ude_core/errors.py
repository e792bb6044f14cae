"""Errors, split by who acts: the user mends his input, the world is retried, the rest is a bug."""

from __future__ import annotations


class UserError(ValueError):
    """What the user can mend. One line: what, the value, the place, and what to do. Exit status 2."""


class CohortError(UserError):
    """A cohort that cannot be used as it stands."""


class SettingError(UserError):
    """A setting outside its range."""


class FingerprintError(UserError):
    """Data, weights or a bundle are not those a study or a noise was made for."""


class BundleError(UserError):
    """A bundle that is incomplete, altered, or not for what it was given."""


class NonFiniteLossError(ArithmeticError):
    """The objective became NaN or infinite. The trial keeps its last finite noise."""


class PermanentEncoderError(RuntimeError):
    """The encoder answered something that no retry mends: wrong shape, refused key, changed model."""


class EncoderMemoryError(MemoryError):
    """Not even one image fits into memory beside the encoder. Smaller batches were tried first."""
