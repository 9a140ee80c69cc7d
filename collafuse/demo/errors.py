"""Errors of the demo."""

from monitoring.errors import CollafuseError


class DemoFailed(CollafuseError):
    """A part of the demo did not do its work; the message names it and its log."""
