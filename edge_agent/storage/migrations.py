"""The spool's tables, as a list of named steps.

Each step runs in a transaction of its own together with the row that records it, so a power cut leaves the database before the
step or after it. Steps are only ever appended: a step that has shipped is never edited.
"""

import sqlite3
import time
from dataclasses import dataclass

from edge_agent.errors import SpoolError


@dataclass(frozen=True)
class Migration:
    """One step: `name` is recorded when all `statements` have run."""

    name: str
    statements: tuple[str, ...]


_INBOX = """
CREATE TABLE inbox (
    sequence    INTEGER PRIMARY KEY AUTOINCREMENT,
    message_id  TEXT NOT NULL UNIQUE,
    type        TEXT NOT NULL,
    received_at REAL NOT NULL
)
"""

_RECEIPTS = """
CREATE TABLE receipts (
    batch_id    TEXT PRIMARY KEY,
    samples     INTEGER NOT NULL,
    duplicates  INTEGER NOT NULL,
    received_at REAL NOT NULL
)
"""

_CONTRACT = """
CREATE TABLE contract (
    only        INTEGER PRIMARY KEY CHECK (only = 1),
    number      INTEGER NOT NULL,
    body        BLOB NOT NULL,
    received_at REAL NOT NULL
)
"""

_OUTBOX = """
CREATE TABLE outbox (
    sequence    INTEGER PRIMARY KEY AUTOINCREMENT,
    message_id  TEXT NOT NULL UNIQUE,
    priority    INTEGER NOT NULL,          -- 0 interactive, 1 prefetch, 2 bulk
    kind        TEXT NOT NULL,             -- last word of the routing key
    type        TEXT NOT NULL,
    job_id      TEXT REFERENCES jobs (job_id),
    size_bytes  INTEGER NOT NULL,
    created_at  REAL NOT NULL,             -- wall clock, for people only
    attempts    INTEGER NOT NULL DEFAULT 0,
    last_error  TEXT,
    body        BLOB NOT NULL
)
"""

_JOBS = """
CREATE TABLE jobs (
    sequence        INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id          TEXT NOT NULL UNIQUE,
    state           TEXT NOT NULL CHECK (state IN
                      ('accepted', 'requested', 'partial', 'finishing', 'completed', 'failed', 'expired')),
    count           INTEGER NOT NULL CHECK (count > 0),
    label           INTEGER,
    seed            INTEGER NOT NULL,
    recipe          TEXT,                  -- JSON, fixed when the work is planned
    done            INTEGER NOT NULL DEFAULT 0,
    reason          TEXT,
    detail          TEXT,
    ttl_seconds     REAL,
    carried_seconds REAL NOT NULL DEFAULT 0,
    anchor_boot     TEXT NOT NULL,
    anchor_seconds  REAL NOT NULL,
    created_at      REAL NOT NULL,         -- wall clock, for people only
    work_seconds    REAL NOT NULL DEFAULT 0
)
"""

_JOBS_END_ONCE = """
CREATE TRIGGER jobs_end_once BEFORE UPDATE OF state ON jobs
WHEN OLD.state IN ('completed', 'failed', 'expired')
BEGIN SELECT RAISE(ABORT, 'a job ends exactly once'); END
"""

_REQUESTS = """
CREATE TABLE requests (
    request_id  TEXT PRIMARY KEY,
    job_id      TEXT NOT NULL REFERENCES jobs (job_id),
    first       INTEGER NOT NULL,          -- index in the job of the request's sample 0
    samples     INTEGER NOT NULL,
    seed        INTEGER NOT NULL
)
"""

_LATENTS = """
CREATE TABLE latents (
    request_id  TEXT NOT NULL REFERENCES requests (request_id) ON DELETE CASCADE,
    first       INTEGER NOT NULL,          -- index in the request of the part's sample 0
    samples     INTEGER NOT NULL,
    parts       INTEGER NOT NULL,
    dtype       TEXT NOT NULL,
    backbone_version INTEGER NOT NULL,
    x           BLOB NOT NULL,
    PRIMARY KEY (request_id, first)
)
"""

_LEDGER = """
CREATE TABLE ledger (
    image       TEXT NOT NULL,             -- digest of the image; never the image
    release     INTEGER NOT NULL CHECK (release >= 0),
    t_cut       INTEGER NOT NULL,
    schedule_id TEXT NOT NULL,
    batch_id    TEXT NOT NULL,
    released_at REAL NOT NULL,             -- wall clock, for people only
    PRIMARY KEY (image, release)           -- one release of one image, at whatever cut, for ever
) WITHOUT ROWID
"""

_KEPT = """
CREATE TABLE kept (
    name            TEXT PRIMARY KEY,      -- id of an ended job, or a folder of pictures whose job is not known
    sequence        INTEGER NOT NULL,      -- the lower, the sooner it goes
    size_bytes      INTEGER NOT NULL,
    noticed_at      REAL NOT NULL,         -- wall clock
    noticed_running REAL NOT NULL          -- seconds that agents had run here until then
) WITHOUT ROWID
"""

_HEADS = """
CREATE TABLE heads (
    sequence     INTEGER PRIMARY KEY AUTOINCREMENT,
    bundle       TEXT NOT NULL UNIQUE,     -- SHA-256 of the bundle's file
    name         TEXT NOT NULL,
    version      TEXT NOT NULL,
    counter      INTEGER NOT NULL,
    manifest     TEXT,                     -- SHA-256 of the manifest that was vouched for
    state        TEXT NOT NULL CHECK (state IN ('receiving', 'staged', 'trial', 'live', 'previous', 'retired',
                   'refused', 'failed', 'rolled_back')),
    reason       TEXT,
    detail       TEXT,
    attempts     INTEGER NOT NULL DEFAULT 0,  -- how often it was whole and was not what had been announced
    starts       INTEGER NOT NULL DEFAULT 0,  -- checks, then trials, that were begun and have not ended
    images       INTEGER NOT NULL DEFAULT 0,  -- made on trial
    work_seconds REAL NOT NULL DEFAULT 0,     -- on trial
    allow_older  INTEGER NOT NULL DEFAULT 0,  -- the operator's word that its counter does not matter
    changed      INTEGER NOT NULL             -- rises with every change of any row
)
"""

_HEADS_ONE_OF_EACH = """
CREATE UNIQUE INDEX heads_one_of_each ON heads (state)
WHERE state IN ('receiving', 'staged', 'trial', 'live', 'previous')
"""

_INCOMING_HEAD = """
CREATE TABLE incoming_head (
    only        INTEGER PRIMARY KEY CHECK (only = 1),
    bundle      TEXT NOT NULL REFERENCES heads (bundle),
    size_bytes  INTEGER NOT NULL,
    chunk_bytes INTEGER NOT NULL,
    chunks      INTEGER NOT NULL,
    manifest    BLOB NOT NULL
)
"""

_HEAD_CHUNKS = """
CREATE TABLE head_chunks (
    position    INTEGER PRIMARY KEY,
    content     BLOB NOT NULL
)
"""

_KNOWN_TIME = """
CREATE TABLE known_time (
    only           INTEGER PRIMARY KEY CHECK (only = 1),
    unix_seconds   REAL NOT NULL,          -- what the server or the owner said last
    anchor_boot    TEXT NOT NULL,
    anchor_seconds REAL NOT NULL
)
"""

_OWN_HEAD = """
CREATE TABLE own_head (                    -- the settings' head that was taken once, whatever became of its keys since
    only        INTEGER PRIMARY KEY CHECK (only = 1),
    manifest    TEXT NOT NULL,             -- SHA-256
    settings    TEXT NOT NULL              -- digest of the settings' keys at the time
)
"""

_HEAD_PROOFS = """
CREATE TABLE head_proofs (                 -- what was vouched for, and by whom, of heads that are here or on their way
    bundle      TEXT PRIMARY KEY,
    manifest    BLOB NOT NULL,
    signatures  BLOB NOT NULL
)
"""

_SIGNED_TIMES = """
CREATE TABLE signed_times (                -- the latest moment that each key has signed; '' for heads that need no key
    key         TEXT PRIMARY KEY,
    issued_at   REAL NOT NULL
)
"""

_POOL_SHELVES = """
CREATE TABLE pool_shelves (
    label       INTEGER PRIMARY KEY,       -- -1 for images without a label
    wanted      INTEGER NOT NULL,
    failures    INTEGER NOT NULL DEFAULT 0, -- in a row
    error       TEXT                       -- the last of them, for people
)
"""

_POOL_REQUESTS = """
CREATE TABLE pool_requests (
    request_id  TEXT PRIMARY KEY,
    label       INTEGER NOT NULL,
    samples     INTEGER NOT NULL,
    seed        INTEGER NOT NULL,
    origin      TEXT NOT NULL,             -- JSON, the recipe whose server half it asks for
    dtype       TEXT NOT NULL,
    ttl_seconds REAL NOT NULL,
    quota_bytes INTEGER NOT NULL,          -- of all latents, as the settings had it
    renews      INTEGER,                   -- the newest backbone version that it is to replace
    waited_seconds REAL NOT NULL DEFAULT 0, -- with the link up, so its answer could have come
    open        INTEGER NOT NULL DEFAULT 1 -- 0 once nothing more is taken for it
)
"""

_POOL_LATENTS = """
CREATE TABLE pool_latents (
    sequence    INTEGER PRIMARY KEY AUTOINCREMENT,
    request_id  TEXT NOT NULL REFERENCES pool_requests (request_id) ON DELETE CASCADE,
    sample      INTEGER NOT NULL,          -- index in the request; with its seed the key of the noise
    backbone_version INTEGER NOT NULL,
    x           BLOB,                      -- null once used: the row stays, so that a repeat is not taken again
    UNIQUE (request_id, sample)
)
"""

_POOL_TAKEN = """
CREATE TABLE pool_taken (
    job_id      TEXT NOT NULL REFERENCES jobs (job_id),
    position    INTEGER NOT NULL,          -- index in the job
    seed        INTEGER NOT NULL,
    sample      INTEGER NOT NULL,
    backbone_version INTEGER NOT NULL,
    dtype       TEXT NOT NULL,
    x           BLOB NOT NULL,
    PRIMARY KEY (job_id, position)
)
"""

_STEP_COSTS = """
CREATE TABLE step_costs (
    runner      TEXT PRIMARY KEY,          -- head, provider and threads
    body        TEXT NOT NULL              -- JSON
)
"""

MIGRATIONS: tuple[Migration, ...] = (
    Migration(
        "0001_spool",
        (
            _JOBS,
            _JOBS_END_ONCE,
            "CREATE INDEX jobs_by_state ON jobs (state)",
            _OUTBOX,
            "CREATE INDEX outbox_by_priority ON outbox (priority, sequence)",
            "CREATE INDEX outbox_by_job ON outbox (job_id)",
            _INBOX,
            _REQUESTS,
            "CREATE INDEX requests_by_job ON requests (job_id)",
            _LATENTS,
            _LEDGER,
            _RECEIPTS,
            _CONTRACT,
            "CREATE TABLE agent (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
            "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
        ),
    ),
    Migration(
        "0002_choices_of_a_job",
        (
            "ALTER TABLE jobs ADD COLUMN seeded INTEGER NOT NULL DEFAULT 1",
            "ALTER TABLE jobs ADD COLUMN head_steps INTEGER",
            "ALTER TABLE jobs ADD COLUMN source TEXT CHECK (source IN ('server', 'pool', 'local'))",
        ),
    ),
    Migration(
        "0003_restored",
        (
            # 1: known from the journal alone; whether its message ever left is not known.
            "ALTER TABLE ledger ADD COLUMN restored INTEGER NOT NULL DEFAULT 0",
            # Digest of the released values; NULL for what was released before this column was there.
            "ALTER TABLE ledger ADD COLUMN content TEXT",
            _KEPT,
            # To ask again: the message as it was, since the server takes another with its id for a mistake; how often that
            # was done; and for how long the device has been connected since the broker confirmed it.
            "ALTER TABLE requests ADD COLUMN body BLOB",
            "ALTER TABLE requests ADD COLUMN repeats INTEGER NOT NULL DEFAULT 0",
            "ALTER TABLE requests ADD COLUMN waited_seconds REAL NOT NULL DEFAULT 0",
        ),
    ),
    Migration(
        "0004_ledger",  # a row without mu was written before prices were kept
        (
            "ALTER TABLE ledger ADD COLUMN clip_norm REAL",
            "ALTER TABLE ledger ADD COLUMN norm_bound REAL",
            "ALTER TABLE ledger ADD COLUMN mu REAL CHECK (mu >= 0)",
        ),
    ),
    Migration(
        "0005_pool",
        (
            _POOL_SHELVES,
            _POOL_REQUESTS,
            "CREATE INDEX pool_requests_by_label ON pool_requests (label)",
            _POOL_LATENTS,
            _POOL_TAKEN,
            _STEP_COSTS,
            "ALTER TABLE jobs ADD COLUMN budget_ms REAL",
        ),
    ),
    Migration(
        "0006_heads",
        (
            _HEADS,
            _HEADS_ONE_OF_EACH,
            _INCOMING_HEAD,
            _HEAD_CHUNKS,
            "CREATE TABLE head_keys (only INTEGER PRIMARY KEY CHECK (only = 1), history BLOB NOT NULL)",
            _KNOWN_TIME,
        ),
    ),
    Migration(
        "0007_idempotency",
        (
            # The caller's key, and the SHA-256 of the request that it came with, in hexadecimal.
            "ALTER TABLE jobs ADD COLUMN idempotency_key TEXT",
            "ALTER TABLE jobs ADD COLUMN request_digest TEXT",
            "CREATE UNIQUE INDEX jobs_by_idempotency_key ON jobs (idempotency_key) WHERE idempotency_key IS NOT NULL",
        ),
    ),
    Migration(
        "0008_head_proofs",
        (
            # Digest of the settings' keys that the list in force led on from; NULL for what was kept before.
            "ALTER TABLE head_keys ADD COLUMN settings TEXT",
            _OWN_HEAD,
            _HEAD_PROOFS,
            _SIGNED_TIMES,
            # Whether the device's own clock said the same as the letter.
            "ALTER TABLE known_time ADD COLUMN agreed INTEGER NOT NULL DEFAULT 0",
            # The boot in which the last check or use began.
            "ALTER TABLE heads ADD COLUMN start_boot TEXT",
        ),
    ),
    Migration(
        "0009_head_since",
        (
            # When a head came into its state: the boot, and the seconds since it began.
            "ALTER TABLE heads ADD COLUMN since_boot TEXT",
            "ALTER TABLE heads ADD COLUMN since_seconds REAL",
        ),
    ),
)


def applied(connection: sqlite3.Connection) -> tuple[str, ...]:
    """Names of the steps that the database has, oldest first; empty for one that this program never finished making."""
    known = connection.execute(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'migrations'"
    ).fetchone()
    if known is None:
        return ()
    return tuple(row[0] for row in connection.execute("SELECT name FROM migrations ORDER BY rowid"))


def migrate(
    connection: sqlite3.Connection, migrations: tuple[Migration, ...] = MIGRATIONS
) -> tuple[str, ...]:
    """Bring the database up to date; returns the names of the steps that ran now.

    Raises SpoolError when the database has steps that this program does not know: it was made by a newer one.
    """
    done = applied(connection)
    unknown = [name for name in done if name not in {step.name for step in migrations}]
    if unknown:
        raise SpoolError(
            f"the spool has the migration {unknown[0]!r}, which this program does not know: it was made by a newer"
            " version; update collafuse-edge"
        )
    return tuple(step.name for step in migrations if step.name not in done and _apply(connection, step))


def _apply(connection: sqlite3.Connection, step: Migration) -> bool:
    """Run one step, unless another process has just done so; all or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, applied_at REAL NOT NULL)"
        )
        if connection.execute("SELECT 1 FROM migrations WHERE name = ?", (step.name,)).fetchone():
            connection.execute("ROLLBACK")
            return False
        for statement in step.statements:
            connection.execute(statement)
        connection.execute("INSERT INTO migrations VALUES (?, ?)", (step.name, time.time()))
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return True
