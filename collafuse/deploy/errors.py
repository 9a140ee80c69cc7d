"""Errors of the room that deploys."""

from monitoring.errors import CollafuseError


class DeployError(CollafuseError):
    """A file of the deployment is missing, cannot be read or cannot be written; the message names it and says what to do."""
