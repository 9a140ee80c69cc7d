"""scikit-learn's digits: 1,797 real scans, 8×8.

Source: the test part of the UCI data set "Optical Recognition of Handwritten Digits", shipped with scikit-learn.
"""

import numpy as np
import sklearn.datasets

from evaluation.data.images import LabelledImages


def load_digits() -> LabelledImages:
    """All 1,797 scans: images (1797, 1, 8, 8) float32 in [-1, 1], labels (1797,) int32 in 0..9."""
    scans = sklearn.datasets.load_digits()
    images = np.asarray(scans.images, dtype=np.float32)[:, None] / np.float32(8.0) - np.float32(1.0)
    return LabelledImages(images, np.asarray(scans.target, dtype=np.int32))
