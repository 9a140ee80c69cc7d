from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.bundle.bars import check_bars
from export.bundle.policy import check_figures, check_install, version_numbers
from export.errors import BundleRefused, ParityFailed
from tests.export.bundle.small_bundle import small_manifest

MANIFEST = small_manifest()
NOW = MANIFEST.issued_at + 60


def reason(**changes: Any) -> str | None:
    facts: dict[str, Any] = {"installed_counter": 2, "agent_version": "0.1.0", "known_time_unix": NOW}
    try:
        check_install(MANIFEST, **(facts | changes))
    except BundleRefused as refused:
        return refused.reason
    return None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"installed_counter": None}, None),
        ({"installed_counter": 3}, "counter_equal"),
        ({"installed_counter": 4}, "counter_older"),
        ({"installed_counter": 4, "allow_older": True}, None),
        ({"installed_counter": 3, "allow_older": True}, None),
        ({"known_time_unix": MANIFEST.expires_at}, None),
        ({"known_time_unix": 1_900_000_001}, "expired"),
        ({"known_time_unix": 1_900_000_001, "allow_older": True}, "expired"),
        ({"known_time_unix": 0}, None),
        ({"agent_version": "0.0.9"}, "agent_too_old"),
        ({"agent_version": "0.1"}, None),
        ({"agent_version": "0.10.0"}, None),
        ({"client": "ward", "name": "ward"}, None),
        ({"client": "clinic"}, "other_client"),
        ({"name": "ward-b"}, "other_name"),
    ],
)
def test_what_may_be_installed_follows_from_facts_alone(
    changes: dict[str, Any], expected: str | None
) -> None:
    assert reason(**changes) == expected


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_without_the_operators_word_the_installed_counter_only_grows(offered: list[int]) -> None:
    installed: int | None = None
    for counter in offered:
        manifest = MANIFEST.model_copy(update={"counter": counter})
        try:
            check_install(manifest, installed, "0.1.0", NOW)
        except BundleRefused:
            assert installed is not None
            assert counter <= installed
        else:
            assert installed is None or counter > installed
            installed = counter


def test_versions_compare_by_their_numbers() -> None:
    assert version_numbers("1.2.dev3+x") == (1, 2, 0, 0)
    assert version_numbers("0.10.0") > version_numbers("0.9.9")
    assert version_numbers("nonsense") == (0, 0, 0, 0)


def test_a_bundle_whose_maker_lowered_the_bars_is_not_for_others() -> None:
    gate = MANIFEST.gates[0]
    lax = gate.model_copy(
        update={"step": gate.step.model_copy(update={"relative_rms": 0.5, "allowed_relative_rms": 1.0})}
    )
    blurred = gate.model_copy(
        update={"chains": (gate.chains[0].model_copy(update={"psnr_db_least": 9.0, "allowed_psnr_db": 1.0}),)}
    )

    check_bars(MANIFEST)
    check_figures(MANIFEST)
    with pytest.raises(BundleRefused, match="differs from the trained head") as refused:
        check_figures(MANIFEST.model_copy(update={"gates": (lax,)}))
    assert refused.value.reason == "gates_failed"
    with pytest.raises(ParityFailed, match=r"differs from the trained head by 5\.0e-01 on cpu"):
        check_bars(MANIFEST.model_copy(update={"gates": (lax,)}))
    with pytest.raises(ParityFailed, match=r"9\.0 dB"):
        check_bars(MANIFEST.model_copy(update={"gates": (blurred,)}))
    golden = MANIFEST.golden.model_copy(update={"allowed_relative_rms": 2.0})
    with pytest.raises(ParityFailed, match="probe"):
        check_bars(MANIFEST.model_copy(update={"golden": golden}))
    with pytest.raises(ParityFailed, match="never compared on the CPU"):
        check_bars(MANIFEST.model_copy(update={"gates": (gate.model_copy(update={"provider": "cuda"}),)}))
