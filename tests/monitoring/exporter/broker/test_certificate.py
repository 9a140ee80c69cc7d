"""When the exporter looks at the broker's certificate; what it then sees is in tests/broker/test_tls.py."""

import datetime as dt

from monitoring.exporter.broker.certificate import LOOK_SECONDS, RETRY_SECONDS, CertificateCollector

END = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


def test_a_scrape_never_waits_for_a_look_and_looks_are_few() -> None:
    now, looks = [0.0], [0]
    answers: list[dt.datetime | OSError] = [OSError("it did not answer in time"), END]

    def look() -> dt.datetime:
        looks[0] += 1
        answer = answers[min(looks[0], len(answers)) - 1]
        if isinstance(answer, OSError):
            raise answer
        return answer

    collector = CertificateCollector(look, lambda: now[0])

    def scraped() -> list[float]:
        return [sample.value for family in collector.collect() for sample in family.samples]

    assert (scraped(), looks[0]) == ([], 0)
    for at, seen, expected in (
        (0.0, 1, []),
        (RETRY_SECONDS - 1, 1, []),
        (RETRY_SECONDS, 2, [END.timestamp()]),
        (RETRY_SECONDS + LOOK_SECONDS - 1, 2, [END.timestamp()]),
        (RETRY_SECONDS + LOOK_SECONDS, 3, [END.timestamp()]),
    ):
        now[0] = at
        collector.turn()
        assert (looks[0], scraped()) == (seen, expected)
