"""Errors of the mathematics.

CollafuseError
└── DiffusionError        an argument that no schedule, cut or step can accept
    ├── PlanError         a step plan that cannot be run
    └── ReleaseRefused    an image that must not, or cannot, be released
"""

from monitoring.errors import CollafuseError, Disposition


class DiffusionError(CollafuseError, ValueError):
    """An argument lies outside what the mathematics is defined for."""


class PlanError(DiffusionError):
    """A step plan is not strictly decreasing, leaves the chain, or names an unknown sampler or spacing."""

    disposition = Disposition.DEAD_LETTER


class ReleaseRefused(DiffusionError):
    """An image was not released: it is malformed, or releasing it would disclose it or be useless."""

    disposition = Disposition.DEAD_LETTER
