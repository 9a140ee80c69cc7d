"""Errors of backups.

BackupError
├── BackupDamaged    a file of it is not what was written, is missing, or nobody can tell
├── BackupRefused    it cannot be made or restored where it was asked for; nothing was changed
└── HalfRestored     the storage is back, and of the broker's definitions some at most
"""

from monitoring.errors import CollafuseError


class BackupError(CollafuseError):
    """The root of what backups report."""


class BackupDamaged(BackupError):
    """What is there is not the backup that was made."""


class BackupRefused(BackupError):
    """Something stands where it would go, or does not fit it."""


class HalfRestored(BackupError):
    """The broker took not all of it; the rest can be put there by restoring again."""
