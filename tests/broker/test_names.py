"""Names that end up in routing keys and permission patterns hold nothing that means anything there."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from broker import names
from broker.errors import InvalidName

valid = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)


@pytest.mark.parametrize("name", ["a", "0", "hospital-a", "pc-1", "a--b", "9-", "x" * 63])
def test_lowercase_letters_digits_and_hyphens_make_a_name(name: str) -> None:
    assert names.valid_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "-a",
        "A",
        "a_b",
        "a.b",
        "a b",
        "a\n",
        "\na",
        "a*",
        "a#",
        "a|b",
        "ä",
        "a$",
        "x" * 64,
        "a/b",
        "\u0660",
    ],
    ids=ascii,
)
def test_anything_else_does_not(name: str) -> None:
    assert not names.valid_name(name)
    with pytest.raises(InvalidName, match="lowercase letters"):
        names.user_name(name, "pc-1")
    with pytest.raises(InvalidName, match="lowercase letters"):
        names.user_name("hospital-a", name)


@given(valid, valid)
def test_a_user_splits_into_the_client_and_device_it_was_made_of(client: str, device: str) -> None:
    assert names.split_user(names.user_name(client, device)) == (client, device)


@given(st.tuples(valid, valid), st.tuples(valid, valid))
def test_two_devices_never_share_a_user_or_an_inbox(one: tuple[str, str], other: tuple[str, str]) -> None:
    assume(one != other)

    assert names.user_name(*one) != names.user_name(*other)
    assert names.inbox(names.user_name(*one)) != names.inbox(names.user_name(*other))


@given(valid, valid)
def test_a_user_matches_only_itself_as_a_pattern(client: str, device: str) -> None:
    user = names.user_name(client, device)

    assert re.escape(user).replace(r"\-", "-") == user


@given(st.text(max_size=30))
def test_what_is_no_device_cannot_be_split(user: str) -> None:
    assume(not re.fullmatch(r"[a-z0-9][a-z0-9-]*_[a-z0-9][a-z0-9-]*", user))

    with pytest.raises(InvalidName):
        names.split_user(user)
    with pytest.raises(InvalidName):
        names.inbox(user)


@pytest.mark.parametrize("user", ["admin", "trainer", "a_b_c", "_b", "a_", "a__b", ""])
def test_a_workers_user_is_no_device(user: str) -> None:
    with pytest.raises(InvalidName):
        names.split_user(user)


def test_an_inbox_is_told_from_other_queues() -> None:
    assert names.inbox("hospital-a_pc-1") == "inbox.hospital-a_pc-1"
    assert names.is_inbox(names.inbox("hospital-a_pc-1"))
    assert not names.is_inbox("samples")
