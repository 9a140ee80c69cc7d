"""A bundle of a few kilobytes whose network is no network: enough for all that is decided before it runs."""

import numpy as np

from diffusion.schedule import NoiseSchedule
from export.bundle.bundle import Bundle, member_digests
from export.bundle.golden import Golden
from export.bundle.keys import BUNDLE_DOMAIN, NO_KEY_LIST, UNSIGNED, KeyHistory, PrivateKey, SignedKeyList
from export.bundle.manifest import Manifest

ONNX = b"any bytes will do: a bundle does not run the network"
SCHEDULE = NoiseSchedule.cosine(50)
KEY = PrivateKey.generate()
GOLDEN = Golden(
    x=np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 1, 4, 4),
    t=np.array([1, 10]),
    label=np.array([0, 2]),
    eps=np.linspace(1, -1, 32, dtype=np.float32).reshape(2, 1, 4, 4),
)


def small_manifest(onnx: bytes = ONNX) -> Manifest:
    level = {"t_first": 1, "t_last": 10, "relative_rms": 2e-6, "max_abs_error": 4e-6}
    facts = {
        "name": "ward",
        "client": "ward",
        "version": "1.0-spring",
        "counter": 3,
        "issued_at": 1_800_000_000,
        "expires_at": 1_900_000_000,
        "minimum_agent": "0.1.0",
        "schedule_name": SCHEDULE.name,
        "schedule_T": SCHEDULE.T,
        "schedule_id": SCHEDULE.schedule_id,
        "t_first": 1,
        "t_cut": 10,
        "image_shape": (1, 4, 4),
        "num_classes": 2,
        "labels": ("cat", "dog"),
        "network": {"parameters": 9, "base_channels": 8, "opset": 21, "precision": "fp32"},
        "training": {
            "steps": 5,
            "batch_size": 4,
            "images": 12,
            "learning_rate": 0.001,
            "seed": 0,
            "seconds": 0.5,
            "final_loss": 0.25,
        },
        "gates": (
            {
                "provider": "cpu",
                "step": {
                    "allowed_relative_rms": 1e-4,
                    "relative_rms": 2e-6,
                    "max_abs_error": 4e-6,
                    "mean_abs_error": 1e-6,
                    "batch_sizes": (1, 3, 16),
                    "evaluations": 100,
                    "levels": (level,),
                },
                "chains": (
                    {
                        "steps": 4,
                        "seeds": 3,
                        "images": 8,
                        "allowed_psnr_db": 60.0,
                        "psnr_db": 90.0,
                        "psnr_db_spread": 1.0,
                        "psnr_db_least": 89.0,
                        "frechet": 1e-6,
                        "frechet_spread": 1e-7,
                        "frechet_floor": 3.0,
                        "frechet_floor_spread": 0.5,
                    },
                ),
                "onnxruntime": "1",
                "torch": "2",
            },
        ),
        "golden": {"count": 2, "allowed_relative_rms": 1e-3},
        "digests": member_digests(onnx, SCHEDULE, GOLDEN),
    }
    return Manifest.model_validate(facts)


def small_bundle(key: PrivateKey = KEY, *lists: SignedKeyList) -> Bundle:
    manifest = small_manifest()
    signatures = UNSIGNED.plus(key.sign(BUNDLE_DOMAIN, manifest.to_bytes()))
    key_list = KeyHistory(lists=lists) if lists else NO_KEY_LIST
    return Bundle(manifest, ONNX, SCHEDULE, GOLDEN, signatures, key_list)
