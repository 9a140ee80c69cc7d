"""What can go wrong between an owner and the devices."""

from export.errors import ExportError


class DeliveryError(ExportError):
    """A bundle cannot be sent, or the file of a rollout cannot be used."""


class RolloutHalted(DeliveryError):
    """Too many devices did not do well with the head; no more of them get it."""


class RolloutUnfinished(DeliveryError):
    """Too few devices have the head for anything to be said of it; nothing is wrong so far."""
