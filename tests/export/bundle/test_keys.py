import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.bundle.keyring import Keyring
from export.bundle.keys import (
    BUNDLE_DOMAIN,
    KEYS_DOMAIN,
    UNSIGNED,
    KeyHistory,
    KeyList,
    PrivateKey,
    PublicKey,
    SignedKeyList,
)
from export.errors import BundleError, KeyUnusable, SignatureRefused

FIRST, SECOND, THIRD, FOURTH = (PrivateKey.generate() for _ in range(4))
STRANGER = PrivateKey.generate()
DOCUMENT = b"any manifest"


def listed(
    version: int,
    *keys: PrivateKey,
    threshold: int = 1,
    signers: tuple[PrivateKey, ...] = (),
    expires_at: int | None = None,
) -> SignedKeyList:
    texts = tuple(key.public.text for key in keys)
    signed = SignedKeyList(
        content=KeyList(version=version, keys=texts, threshold=threshold, expires_at=expires_at)
    )
    for signer in signers:
        signed = signed.signed_by(signer)
    return signed


def ring_of(*keys: PrivateKey) -> Keyring:
    return Keyring.from_texts(key.public.text for key in keys)


def accepts(ring: Keyring, *signers: PrivateKey) -> bool:
    signatures = UNSIGNED
    for signer in signers:
        signatures = signatures.plus(signer.sign(BUNDLE_DOMAIN, DOCUMENT))
    try:
        ring.verify(DOCUMENT, signatures)
    except SignatureRefused:
        return False
    return True


def reason_of(ring: Keyring, signed: SignedKeyList) -> str:
    with pytest.raises(SignatureRefused) as refused:
        ring.accept(signed)
    assert "\n" not in str(refused.value)
    return refused.value.reason


def test_a_key_reads_back_from_its_text() -> None:
    assert PublicKey.from_text(FIRST.public.text) == FIRST.public
    assert FIRST.public.text.startswith("ed25519:")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ed25519:",
        "ed25519:AAAA",
        "rsa:" + "A" * 43 + "=",
        FIRST.public.text + "=",
        FIRST.public.text[8:],
        "ed25519:ü",
    ],
    ids=["nothing", "no key", "too short", "another kind", "too long", "no kind", "no base64"],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(KeyUnusable):
        PublicKey.from_text(text)


def test_a_key_has_one_spelling() -> None:
    # The last letter before the padding carries two bits that base64 ignores.
    text = FIRST.public.text
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = text[:-2] + letters[letters.index(text[-2]) ^ 1] + "="

    with pytest.raises(KeyUnusable, match="should be"):
        PublicKey.from_text(other)


def test_a_trusted_key_vouches_and_a_stranger_does_not() -> None:
    assert accepts(ring_of(FIRST), FIRST)
    assert accepts(ring_of(FIRST), STRANGER, FIRST)
    assert not accepts(ring_of(FIRST), STRANGER)
    assert not accepts(ring_of(FIRST))
    assert not accepts(Keyring(()), FIRST)


@settings(deadline=None, max_examples=60)
@given(offset=st.integers(0, 63), flip=st.integers(1, 255))
def test_a_signature_that_was_touched_is_false(offset: int, flip: int) -> None:
    signature = FIRST.sign(BUNDLE_DOMAIN, DOCUMENT)
    raw = bytearray.fromhex(signature.signature)
    raw[offset] ^= flip

    with pytest.raises(SignatureRefused) as refused:
        ring_of(FIRST).verify(DOCUMENT, UNSIGNED.plus(signature.model_copy(update={"signature": raw.hex()})))
    assert refused.value.reason == "signature_false"


def test_a_signature_of_one_kind_of_document_is_none_of_another() -> None:
    with pytest.raises(SignatureRefused):
        ring_of(FIRST).verify(DOCUMENT, UNSIGNED.plus(FIRST.sign(KEYS_DOMAIN, DOCUMENT)))


def test_a_device_that_slept_follows_a_chain_of_three_changes_and_forgets_the_old_keys() -> None:
    history = KeyHistory(
        lists=(
            listed(1, SECOND, signers=(FIRST, SECOND)),
            listed(2, THIRD, signers=(SECOND, THIRD)),
            listed(5, FOURTH, signers=(THIRD, FOURTH)),
        )
    )

    ring = ring_of(FIRST).follow(KeyHistory.from_bytes(history.to_bytes()))

    assert ring.version == 5
    assert accepts(ring, FOURTH)
    for revoked in (FIRST, SECOND, THIRD):
        assert not accepts(ring, revoked)
    assert ring.follow(history) == ring


def test_a_link_missing_from_the_chain_ends_it() -> None:
    assert reason_of(ring_of(FIRST), listed(2, THIRD, signers=(SECOND, THIRD))) == "keys_unsigned"


def test_a_device_that_began_after_a_change_of_keys_enters_where_its_key_signed() -> None:
    lists = (
        listed(1, FIRST, signers=(FIRST,)),
        listed(2, SECOND, signers=(FIRST, SECOND)),
        listed(3, THIRD, signers=(SECOND, THIRD)),
    )

    ring = ring_of(SECOND).follow(KeyHistory(lists=lists))
    assert ring.version == 3
    assert accepts(ring, THIRD)
    assert not accepts(ring, FIRST)
    assert accepts(ring_of(SECOND).follow(KeyHistory(lists=lists[:2])), SECOND)


def test_nobody_enters_a_history_in_which_his_keys_signed_nothing_or_not_enough() -> None:
    beginning = listed(1, FIRST, signers=(FIRST,))
    for last in (
        listed(2, SECOND, signers=(FIRST, SECOND)),
        listed(2, STRANGER, signers=(FIRST,)),
        listed(2, STRANGER, THIRD, threshold=2, signers=(STRANGER, FIRST)),
    ):
        with pytest.raises(SignatureRefused) as refused:
            ring_of(STRANGER).follow(KeyHistory(lists=(beginning, last)))
        assert refused.value.reason == "keys_unsigned"


def test_who_has_entered_a_history_passes_over_nothing_more() -> None:
    entered = listed(1, FIRST, signers=(FIRST,))
    gap = listed(2, THIRD, signers=(SECOND, THIRD))

    with pytest.raises(SignatureRefused):
        ring_of(FIRST).follow(KeyHistory(lists=(entered, gap, listed(3, FIRST, signers=(FIRST,)))))


def test_a_list_needs_the_old_keys_and_its_own() -> None:
    ring = ring_of(FIRST)

    assert reason_of(ring, listed(1, SECOND, signers=(SECOND,))) == "keys_unsigned"
    assert reason_of(ring, listed(1, SECOND, signers=(FIRST,))) == "keys_unsigned"
    assert ring.accept(listed(1, SECOND, signers=(FIRST, SECOND))).version == 1


def test_an_older_list_and_a_second_one_of_the_same_version_are_refused() -> None:
    ring = ring_of(FIRST).accept(listed(3, FIRST, SECOND, signers=(FIRST,)))

    assert reason_of(ring, listed(2, FIRST, signers=(FIRST,))) == "keys_older"
    assert reason_of(ring, listed(3, FIRST, signers=(FIRST,))) == "keys_forked"
    assert ring.accept(listed(3, FIRST, SECOND, signers=(FIRST,))) == ring


def test_a_history_that_ends_before_the_list_in_force_does_not_bring_revoked_keys_back() -> None:
    old = listed(1, FIRST, SECOND, signers=(FIRST,))
    ring = ring_of(FIRST).accept(old).accept(listed(2, SECOND, signers=(FIRST, SECOND)))

    followed = ring.follow(KeyHistory(lists=(old,)))

    assert not accepts(followed, FIRST)
    assert accepts(followed, SECOND)


def test_a_threshold_of_two_takes_two_keys_for_heads_and_for_the_next_list() -> None:
    ring = ring_of(FIRST).accept(listed(1, FIRST, SECOND, THIRD, threshold=2, signers=(FIRST, SECOND)))

    assert not accepts(ring, FIRST)
    assert not accepts(ring, FIRST, STRANGER)
    assert accepts(ring, FIRST, THIRD)
    assert reason_of(ring, listed(2, FOURTH, signers=(FIRST, FOURTH))) == "keys_unsigned"
    assert ring.accept(listed(2, FOURTH, signers=(FIRST, THIRD, FOURTH))).version == 2


def test_a_list_that_needs_two_must_itself_be_signed_by_two_of_its_keys() -> None:
    assert (
        reason_of(ring_of(FIRST), listed(1, FIRST, SECOND, threshold=2, signers=(FIRST,))) == "keys_unsigned"
    )


def test_an_expired_list_freezes_nobody_into_old_heads() -> None:
    ring = ring_of(FIRST).accept(listed(1, FIRST, signers=(FIRST,), expires_at=1000))

    ring.check_fresh(1000)
    with pytest.raises(SignatureRefused) as refused:
        ring.check_fresh(1001)
    assert refused.value.reason == "keys_expired"
    # An expired list still leads to the next one.
    ring.accept(listed(2, SECOND, signers=(FIRST, SECOND))).check_fresh(1001)
    ring_of(FIRST).check_fresh(2**40)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'{"lists":[1]}',
        KeyHistory(lists=(listed(1, FIRST),)).to_bytes().replace(b'"threshold":1', b'"threshold":2'),
    ],
)
def test_a_history_out_of_its_form_is_refused(text: bytes) -> None:
    with pytest.raises(BundleError, match=r"keys\.json is not valid"):
        KeyHistory.from_bytes(text)


def test_a_list_that_cannot_be_met_is_not_made() -> None:
    with pytest.raises(ValueError, match="2 of 1 keys cannot sign"):
        listed(1, FIRST, threshold=2)
    with pytest.raises(ValueError, match="listed twice"):
        listed(1, FIRST, FIRST)
    with pytest.raises(ValueError, match="do not grow"):
        KeyHistory(lists=(listed(2, FIRST), listed(2, FIRST)))
