"""Every byte that a real agent sends during a contribution, recorded, and attacked by somebody who knows the images."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from broker import codec
from broker.contract.samples import SamplesV1
from broker.node.local_node import NodeInfo
from diffusion import privacy
from diffusion.schedule import NoiseSchedule
from diffusion.split import Cut
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory, open_state
from tests.conftest import wait_until
from tests.edge_agent.agents import Process, edge_json
from tests.edge_agent.conftest import Device
from tests.edge_agent.traffic import Traffic, best_matches, envelope, remote_ends, take_apart
from tests.link import Link

CUT = Cut(NoiseSchedule.cosine(200), 0.3)
SIDE = 16
COUNT = 24
SPREAD = 0.45
"""Standard deviation of a pixel; far enough from the bounds of [-1, 1] that few are cut off."""


def covariance() -> np.ndarray:
    """Of the pixels of one image: neighbours are alike. (256, 256) float64."""
    place = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1).reshape(-1, 2)
    distance = np.linalg.norm(place[:, None] - place[None], axis=-1)
    return np.asarray(SPREAD**2 * np.exp(-distance / 1.5))


def pictures(seed: int, count: int = COUNT) -> np.ndarray:
    """Images of which somebody may know the distribution: (count, 1, 16, 16) float32 in [-1, 1]."""
    drawn = np.random.default_rng(seed).multivariate_normal(np.zeros(SIDE**2), covariance(), count)
    return np.clip(drawn, -1, 1).astype(np.float32).reshape(count, 1, SIDE, SIDE)


@dataclass(frozen=True)
class Recording:
    """Images, what the agent sent while it contributed them, and what its outbox had held."""

    images: np.ndarray
    secret: bytes
    streams: list[bytes]
    outbox: dict[str, tuple[str, bytes]]

    @property
    def stream(self) -> bytes:
        return b"".join(self.streams)

    @property
    def traffic(self) -> Traffic:
        parts = [take_apart(stream) for stream in self.streams]
        return Traffic(
            [frame for part in parts for frame in part.protocol],
            [message for part in parts for message in part.published],
        )

    @property
    def x_c(self) -> np.ndarray:
        """What the device may give away: (N, 1, 16, 16) float32."""
        return np.stack([privacy.release(CUT, image, self.secret).x_c for image in self.images])

    @property
    def sent(self) -> np.ndarray:
        """What the messages in the stream say of each image, in the order of the images: (N, 1, 16, 16) float32."""
        found = []
        for message in self.traffic.of_type(SamplesV1.type_name):
            samples = codec.decode(message.properties.type, message.body)
            assert isinstance(samples, SamplesV1)
            found.append(samples.dequantised())
        return np.concatenate(found)


Record = Callable[..., Recording]


@pytest.fixture
def record(node: NodeInfo, device: Device, tmp_path: Path) -> Iterator[Record]:
    """Contributes images with a real agent over a link that writes down every byte, each time from a new state directory."""
    agents: list[Process] = []

    def make(images: np.ndarray, dtype: str = "float16") -> Recording:
        number = len(agents)
        state = open_state(tmp_path / f"edge-{number}")
        note_all_messages(state)
        np.savez(tmp_path / f"data-{number}.npz", images=images, labels=np.arange(len(images)) % 3)
        common = ("--state", state.path, "--schedule-steps", 200, "--cut-ratio", 0.3)
        with Link(node.ports.amqp, records=True) as link:
            url = device.url.replace(f":{node.ports.amqp}/", f":{link.port}/")
            agent = Process(tmp_path / f"agent-{number}.log", "edge", "run", *common, "--broker-url", url)
            agents.append(agent)
            wait_until(lambda: bool(agent.events("connected")) or bool(link.recorded), "the agent connects")
            edge_json("contribute", tmp_path / f"data-{number}.npz", *common, "--dtype", dtype)
            with Spool(state.spool) as spool:
                wait_until(
                    lambda: spool.rows("SELECT count(*) FROM outbox WHERE kind = 'samples'")[0][0] == 0,
                    "the outbox drains",
                )
                noted = {row[0]: (row[1], row[2]) for row in spool.rows("SELECT * FROM noted")}
            assert remote_ends(agent.pid) == {("tcp", link.port)}, "nothing bypasses the recorder"
            assert agent.stop() == 0
            return Recording(images, state.secret(), [bytes(stream) for stream in link.recorded], noted)

    yield make
    for agent in agents:
        if agent.exit_code is None:
            agent.kill()


def note_all_messages(state: StateDirectory) -> None:
    """Let the spool write down every message that ever enters the outbox: those that are sent are deleted from it."""
    with Spool(state.spool) as spool, spool.transaction() as transaction:
        transaction.execute("CREATE TABLE noted (message_id TEXT, type TEXT, body BLOB)")
        transaction.execute(
            "CREATE TRIGGER note AFTER INSERT ON outbox BEGIN"
            " INSERT INTO noted VALUES (NEW.message_id, NEW.type, NEW.body); END"
        )


def test_the_stream_is_the_outbox_and_a_protocol_that_knows_nothing_of_the_pixels(record: Record) -> None:
    first, second = record(pictures(1)), record(pictures(2))

    for recording in (first, second):
        sent = {m.properties.message_id: (m.properties.type, m.body) for m in recording.traffic.published}
        samples = recording.traffic.of_type(SamplesV1.type_name)
        assert len(samples) == 1
        assert {key: sent[key] for key in sent if sent[key][0] == SamplesV1.type_name} == {
            key: held for key, held in recording.outbox.items() if held[0] == SamplesV1.type_name
        }
        assert sent.items() <= recording.outbox.items()
        assert all(m.properties.message_id == codec.digest(m.body) for m in samples)
        np.testing.assert_array_equal(recording.sent, recording.x_c.astype(np.float16).astype(np.float32))

    assert first.secret != second.secret
    protocols = [Counter(each.traffic.protocol_without_tags()) for each in (first, second)]
    assert protocols[0] == protocols[1]
    envelopes = [[envelope(m) for m in each.traffic.of_type(SamplesV1.type_name)] for each in (first, second)]
    assert envelopes[0] == envelopes[1]
    fixed = len(first.stream) - sum(len(message.body) for message in first.traffic.published)
    assert fixed < 4096, "what is no message is a few words of AMQP"


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_nothing_in_the_traffic_shows_more_of_an_image_than_its_release(record: Record, dtype: str) -> None:
    recording = record(pictures(3), dtype)
    strangers = pictures(4, 200)

    found = best_matches(recording.stream, recording.images)

    allowed = correlations(recording.x_c, recording.images)
    chance = best_matches(recording.stream, strangers).max()
    assert allowed.mean() > chance, "else the search could not tell a release from an accident"
    assert (found >= allowed - 0.02).all(), "the search finds each release itself"
    assert (found <= np.maximum(allowed, chance) + 0.02).all()


def test_a_clean_image_in_the_traffic_would_have_been_found(record: Record) -> None:
    stream = bytearray(record(pictures(5)).stream)
    images = pictures(6, 3)
    planted = [
        images[0].astype("<f2").tobytes(),
        np.rint((images[1] + 1) * 127.5).astype(np.uint8).tobytes(),
        np.rint(images[2] * 127).astype(np.int8).tobytes(),
    ]
    for number, clean in enumerate(planted):
        place = 1501 + 2000 * number
        stream[place : place + len(clean)] = clean

    assert (best_matches(bytes(stream), images) > 0.999).all()


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_the_best_linear_reconstruction_is_no_better_from_what_was_sent(record: Record, dtype: str) -> None:
    """Wiener's filter knows the distribution of the images and of the noise; for Gaussian images nothing beats it."""
    recording = record(pictures(7, 60), dtype)
    alpha_bar = float(CUT.schedule.alpha_bar[CUT.t_cut])
    prior = covariance()
    wiener = np.sqrt(alpha_bar) * prior @ np.linalg.inv(alpha_bar * prior + (1 - alpha_bar) * np.eye(SIDE**2))

    errors = {
        name: squared_errors(values, wiener, recording.images)
        for name, values in (("sent", recording.sent), ("x_c", recording.x_c))
    }

    worse = errors["sent"] - errors["x_c"]
    assert worse.mean() > -3 * worse.std() / np.sqrt(len(worse))
    assert abs(worse.mean()) < 0.01 * errors["x_c"].mean(), "and hardly worse: it is the release, narrowed"
    prior_error = (recording.images.reshape(60, -1) ** 2).mean()
    assert errors["x_c"].mean() < 0.5 * prior_error, "the filter does reconstruct something"
    shuffled = squared_errors(recording.sent[::-1], wiener, recording.images)
    assert shuffled.mean() > prior_error, "but not from another image's release"


def correlations(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """|Correlation| of each of N images with its partner: (N,)."""
    return np.array(
        [abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) for one, other in zip(left, right, strict=True)]
    )


def squared_errors(values: np.ndarray, wiener: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Mean squared error of each image's reconstruction: (N,)."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    return np.asarray(((flat @ wiener.T - images.reshape(len(images), -1)) ** 2).mean(axis=1))
