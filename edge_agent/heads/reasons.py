"""Why heads come to an end: the codes that are reported, and from which something follows here.

Others, of one place alone, are written where they come about; `export.policy` has those of a head that must not be installed.
"""

MALFORMED = "malformed"
DAMAGED = "damaged"
"""It was whole several times, and never what had been announced."""
NOT_AS_ANNOUNCED = "not_as_announced"
"""Its file is whole, and another head than the one that was announced."""
NOT_READ = "not_read"
"""The process that was to try it never had the whole of it before it."""
CHECK_CRASHED = "check_crashed"
CHECK_KILLED = "check_killed"
"""Somebody ended the process that tried it, as the kernel does when memory runs out; of itself it does not come to that."""
CHECK_TIMED_OUT = "check_timed_out"
PROVIDER_MISSING = "provider_missing"
"""What heads are to run on is not to be had on this device, whatever the head."""
FILE_DAMAGED = "file_damaged"
FILE_MISSING = "file_missing"
KEY_REVOKED = "key_revoked"
SUPERSEDED = "superseded"
GIVEN_UP_BEFORE = "given_up_before"
