import numpy as np

from broker.contract.denoise import DenoiseV1
from server_worker.denoising.answer import Answer, Timing
from tests.server_worker.backbones import SCHEDULE, SHAPE, T

TIMING = Timing(0.01, 0.5)
SAMPLE_BYTES = 1 * 8 * 8 * 4


def request(n: int, dtype: str = "float32") -> DenoiseV1:
    return DenoiseV1.model_validate(
        {
            "request_id": "a" * 32,
            "shape": SHAPE,
            "n": n,
            "schedule_id": SCHEDULE.schedule_id,
            "plan": (T, 20),
            "seed": 1,
            "dtype": dtype,
        }
    )


def test_samples_go_out_when_they_are_done_in_messages_of_bounded_size() -> None:
    answer = Answer(request(10), 7, part_bytes=1024 + 4 * SAMPLE_BYTES)
    samples = np.random.default_rng(0).standard_normal((10, *SHAPE)).astype(np.float32)
    parts = list(answer.parts(4, samples[4:10], TIMING))
    assert [(part.part, part.first, len(part.x)) for part in parts] == [(0, 4, 4), (1, 8, 2)]
    assert not answer.complete
    (last,) = answer.parts(0, samples[:4], TIMING)
    assert (last.part, last.parts, last.backbone_version, last.evaluations) == (2, 10, 7, 1)
    assert np.array_equal(last.x, samples[:4])
    assert answer.complete


def test_a_sample_larger_than_a_part_still_goes_out() -> None:
    parts = Answer(request(2), 1, part_bytes=1024).parts(0, np.zeros((2, *SHAPE), np.float32), TIMING)
    assert [len(part.x) for part in parts] == [1, 1]


def test_values_beyond_float16_are_clamped_not_sent_as_infinity() -> None:
    answer = Answer(request(1, "float16"), 1, part_bytes=4096)
    (part,) = answer.parts(0, np.full((1, *SHAPE), 1e6, np.float32), TIMING)
    assert part.x.dtype == np.float16
    assert np.isfinite(part.x).all()
