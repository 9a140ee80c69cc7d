from edge_agent import status
from edge_agent.settings import EdgeSettings
from edge_agent.storage.holdings import held_bytes
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory


def test_what_waits_to_be_used_is_measured_over_all_its_tables(spool: Spool, state: StateDirectory) -> None:
    assert held_bytes(spool) == 0
    with spool.transaction() as transaction:
        transaction.execute(
            "INSERT INTO jobs (job_id, state, count, seed, anchor_boot, anchor_seconds, created_at)"
            " VALUES ('j', 'partial', 1, 1, 'b', 0, 0)"
        )
        transaction.execute(
            "INSERT INTO requests (request_id, job_id, first, samples, seed) VALUES ('r', 'j', 0, 1, 1)"
        )
        transaction.execute("INSERT INTO latents VALUES ('r', 0, 1, 1, 'float16', 1, ?)", (b"x" * 1000,))
        assert held_bytes(transaction) == 1000

    assert held_bytes(spool) == 1000
    assert status.collect(state, spool, EdgeSettings(state=state.path))["inbox"] == {"bytes": 1000}
