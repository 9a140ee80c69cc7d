"""Errors of the planner."""

from monitoring.errors import CollafuseError


class PlanRefused(CollafuseError):
    """What is to be planned makes no sense; the message names the option and what it may be."""
