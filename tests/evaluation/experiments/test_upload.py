"""The bytes of an upload are those of the system's own messages, and hold what they should."""

import numpy as np
import pytest

from broker import codec
from broker.contract.samples import SamplesV1
from diffusion.split import Cut
from edge_agent.release.batch import BATCH_IMAGES, Dtype
from evaluation.errors import RunError
from evaluation.experiments.releases.upload import (
    DEFAULT_DTYPE,
    arrived,
    arrived_pairs,
    pair_bodies,
    pairs_of_epoch,
    release_bodies,
    sent_bytes,
)
from evaluation.running.federation import Federation


def test_releases_arrive_in_their_order_and_float32_to_the_bit(federation: Federation) -> None:
    made = federation.releases(federation.clients[0], 0.4, 3, seed=0)
    bodies = release_bodies(made, "float32")
    assert len(bodies) == -(-len(made) // BATCH_IMAGES)
    assert np.array_equal(arrived(bodies), np.stack([one.x_c for one in made]))
    first = codec.decode(SamplesV1.type_name, bodies[0])
    assert isinstance(first, SamplesV1)
    assert first.release == 3
    assert first.labels is not None
    assert first.labels.tolist() == [one.label for one in made[:BATCH_IMAGES]]


@pytest.mark.parametrize(("dtype", "value_bytes"), [("float32", 4), ("float16", 2), ("int8", 1)])
def test_an_upload_is_its_values_and_little_more(
    federation: Federation, dtype: Dtype, value_bytes: int
) -> None:
    made = federation.releases(federation.clients[0], 0.4, seed=0)
    values = len(made) * 64 * value_bytes
    sent = sent_bytes(release_bodies(made, dtype), "client-1")
    assert values < sent < values + 8 * len(made) + 1500 * -(-len(made) // BATCH_IMAGES)


def test_what_is_counted_is_what_a_publisher_frames(federation: Federation) -> None:
    """A longer user name is in the routing key and in the user id; a message more is a frame more."""
    bodies = release_bodies(federation.releases(federation.clients[0], 0.4, seed=0), DEFAULT_DTYPE)
    assert sent_bytes(bodies, "ab") - sent_bytes(bodies, "a") == 2 * len(bodies)
    assert sent_bytes(bodies, "a") == sum(sent_bytes([body], "a") for body in bodies)


def test_every_release_of_an_image_is_as_large_as_the_first(federation: Federation) -> None:
    first, later = (
        sent_bytes(
            release_bodies(federation.releases(federation.clients[0], 0.4, index, seed=0), "float16"), "a"
        )
        for index in (0, 15)
    )
    assert first == later


def test_pairs_lie_on_the_chain_above_the_cut_and_arrive_with_their_noise(federation: Federation) -> None:
    cut = Cut(federation.schedule, 0.4)
    made = federation.releases(federation.clients[0], 0.4, seed=0)
    pairs = pairs_of_epoch(federation, made, cut.t_cut, np.random.default_rng(0))
    r = federation.schedule.alpha_bar[pairs.t] / federation.schedule.alpha_bar[cut.t_cut]
    x_c = np.stack([one.x_c for one in made])
    wide = r[:, None, None, None]

    assert pairs.t.min() > cut.t_cut
    assert pairs.t.max() <= federation.schedule.T
    np.testing.assert_allclose(pairs.x_t, np.sqrt(wide) * x_c + np.sqrt(1 - wide) * pairs.noise, atol=1e-5)
    read = arrived_pairs(pair_bodies(pairs, cut, 5, "float32"))
    assert np.array_equal(read.x_t, pairs.x_t)
    assert np.array_equal(read.t, pairs.t)
    assert np.array_equal(read.labels, pairs.labels)
    assert np.array_equal(read.noise, pairs.noise.astype(np.float16).astype(np.float32))


def test_releases_are_not_read_as_pairs(federation: Federation) -> None:
    bodies = release_bodies(federation.releases(federation.clients[0], 0.4, seed=0), "float16")
    with pytest.raises(RunError, match="pair_bodies"):
        arrived_pairs(bodies)
