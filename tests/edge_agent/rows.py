"""Rows of the outbox for those who only carry them: any bytes, past the three ways in."""

from edge_agent.link import outbox
from edge_agent.link.outbox import Kind
from edge_agent.storage.spool import Spool


def put(
    spool: Spool,
    message_id: str,
    body: bytes = b"body",
    *,
    kind: Kind = "samples",
    max_bytes: int = 2**40,
) -> None:
    with spool.transaction() as transaction:
        outbox._put(
            transaction,
            message_id=message_id,
            kind=kind,
            type_name=f"{kind}.v1",
            body=body,
            max_bytes=max_bytes,
        )
