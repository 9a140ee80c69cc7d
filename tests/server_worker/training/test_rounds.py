from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from broker.contract.fields import MAX_LABELS_WANTED
from server_worker.training.rounds import Round, Stock, Targets, Wish, next_round, what_is_missing

counts = st.integers(0, 50)
wishes = st.builds(
    Wish,
    st.integers(0, 3),
    st.none() | st.sets(st.integers(0, 9), min_size=1).map(lambda labels: tuple(sorted(labels))),
)
stocks = st.builds(Stock, counts, st.dictionaries(st.integers(0, 9), counts), counts)
targets = st.builds(
    Targets,
    releases=st.integers(0, 3),
    samples=st.none() | counts,
    per_label=st.none() | st.integers(1, 50),
    num_classes=st.none() | st.integers(1, 10),
    max_bytes=st.none() | counts,
)


@given(stocks, targets)
def test_exactly_the_labels_below_their_target_are_asked_for(stock: Stock, wanted: Targets) -> None:
    wish = what_is_missing(stock, wanted)

    assert wish.releases in (0, wanted.releases)
    if wish.releases == 0 or wanted.per_label is None or wanted.num_classes is None:
        assert wish.labels is None
        return
    asked = set(range(wanted.num_classes)) if wish.labels is None else set(wish.labels)
    assert asked == {
        label for label in range(wanted.num_classes) if stock.by_label.get(label, 0) < wanted.per_label
    }


@given(stocks, targets)
def test_nothing_is_asked_once_enough_is_stored(stock: Stock, wanted: Targets) -> None:
    is_enough = (wanted.samples is not None and stock.samples >= wanted.samples) or (
        wanted.max_bytes is not None and stock.size_bytes >= wanted.max_bytes
    )
    has_labels = wanted.per_label is not None and wanted.num_classes is not None
    all_labels = has_labels and all(
        stock.by_label.get(label, 0) >= (wanted.per_label or 0) for label in range(wanted.num_classes or 0)
    )

    assert (what_is_missing(stock, wanted).releases == 0) == (wanted.releases == 0 or is_enough or all_labels)


@given(stocks, targets, st.integers(0, 9), counts)
def test_a_fuller_store_never_asks_for_more(stock: Stock, wanted: Targets, label: int, more: int) -> None:
    by_label = {**stock.by_label, label: stock.by_label.get(label, 0) + more}
    fuller = replace(stock, samples=stock.samples + more, by_label=by_label)
    before, after = what_is_missing(stock, wanted), what_is_missing(fuller, wanted)

    assert after.releases <= before.releases
    if after.releases and before.labels is not None:
        assert after.labels is not None
        assert set(after.labels) <= set(before.labels)


def test_of_more_labels_than_a_message_names_the_scarcest_are_asked_for() -> None:
    many = MAX_LABELS_WANTED + 100
    stock = Stock(0, {label: 1 + label % 5 for label in range(many)} | {7: 100})

    labels = what_is_missing(stock, Targets(1, per_label=50, num_classes=many)).labels

    assert labels is not None
    assert len(labels) == MAX_LABELS_WANTED
    assert list(labels) == sorted(labels)
    left_out = set(range(many)) - set(labels) - {7}
    assert {stock.by_label[label] for label in left_out} == {5}


@given(wishes, wishes, st.integers(0, 5), st.integers(0, 5), st.floats(0, 100), st.none() | st.floats(1, 50))
def test_a_new_round_is_opened_when_what_is_asked_changes_and_only_then(
    asked: Wish, now_asked: Wish, version: int, newer: int, later: float, closes: float | None
) -> None:
    first = next_round(None, asked, version, 1000.0, closes)
    second = next_round(first, now_asked, version + newer, 1000.0 + later, closes)

    is_closed = closes is not None and second.opened_unix >= 1000.0 + closes
    changed = now_asked != asked or newer > 0 or is_closed
    assert (second.number > first.number) == changed
    assert (second == first) == (not changed)
    assert second.number > version + newer
    assert second.wish == now_asked


@given(wishes, st.integers(0, 5), st.floats(1e9, 4e9), st.integers(0, 10**6))
def test_where_no_round_is_known_any_more_its_number_lies_above_those_that_were(
    asked: Wish, version: int, now: float, rounds_since: int
) -> None:
    lost = next_round(None, asked, version, now, None)
    later = next_round(None, asked, version, now + rounds_since + 1, None)

    assert lost.number == int(now)
    assert later.number > lost.number
    assert next_round(None, asked, version, 0.0, None).number == version + 1, "a clock that was never set"


@given(st.builds(Round, st.integers(0, 2**40), wishes, st.floats(0, 1e10), st.integers(0, 9)))
def test_a_round_comes_back_from_its_file(kept: Round) -> None:
    assert Round.from_dict(kept.to_dict()) == kept
