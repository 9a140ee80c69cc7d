"""A denoise request between its delivery and its end."""

from dataclasses import dataclass

from broker.contract.denoise import DenoiseV1
from broker.delivery import Delivery
from server_worker.denoising.answer import Answer, Timing


@dataclass(eq=False)
class InHand:
    """One request on loan from the broker.

    key: unique among the requests in hand; user: whose inbox the replies go to.
    answer: None once it has failed; steps, steps_seconds: the engine's steps that it took part in.
    unconfirmed: replies handed over and not confirmed yet.
    outcome: what the metrics call its end; refusal: (reason, detail) when its end is the dead-letter queue.
    """

    key: str
    user: str
    delivery: Delivery
    request: DenoiseV1
    taken_seconds: float
    answer: Answer | None = None
    started_seconds: float | None = None
    steps: int = 0
    steps_seconds: float = 0.0
    unconfirmed: int = 0
    outcome: str = "completed"
    refusal: tuple[str, str] | None = None

    @property
    def ids(self) -> dict[str, str | None]:
        """What every log line about it carries: its id, and that of the job it is for, if its device names one."""
        return {"request_id": self.request.request_id, "job_id": self.delivery.trace_id}

    @property
    def all_sent(self) -> bool:
        """Whether no further reply will come for it."""
        return self.answer is None or self.answer.complete

    def timing(self) -> Timing:
        """What its answer says of the time it took so far."""
        started = self.taken_seconds if self.started_seconds is None else self.started_seconds
        return Timing(self.steps_seconds / max(1, self.steps), max(0.0, started - self.taken_seconds))

    def end(self) -> None:
        """End the delivery: acknowledged, or set aside with the reason."""
        if self.refusal is None:
            self.delivery.ack()
        else:
            self.delivery.refuse(*self.refusal)
