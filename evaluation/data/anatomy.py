"""Pictures of heads that nobody has: axial slices drawn from ellipses and smooth random fields, all at once.

The look is that of a FLAIR slice: fluid dark, grey matter brighter than white, a lesion brightest. It is a phantom in the
sense of Shepp & Logan 1974, with folds, texture, a receiver's slow shading and the noise of a magnitude image; no claim about
disease can rest on it.

A head has coordinates (x, y): x grows to the right of the picture, y to its top (the forehead), and the skull lies near
(x/0.76)² + (y/0.94)² = 1.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
HEAD_WIDTH, HEAD_HEIGHT = 0.76, 0.94
# Brightness of what a slice shows, in [0, 1] before contrast, shading and noise.
_SCALP, _SKULL, _FLUID, _GREY, _WHITE, _OEDEMA, _LESION = 0.72, 0.10, 0.14, 0.60, 0.44, 0.78, 0.98
# What contrast leaves where it is.
_MIDDLE = 0.50
# Images drawn at a time: bounds the memory, some 40 fields of this many slices.
_BATCH = 128


@dataclass(frozen=True, eq=False)
class Patients:
    """What one slice of each of N patients is drawn from; every array is (N,) float32.

    scale, tilt (radians, anticlockwise), shift_x and shift_y place the head in the picture, whose half width is 1.
    width stretches the head sideways. ventricles is their size, about 1. contrast is in [0, 1]. noise is the standard
    deviation of either part of the complex signal. lesion_radius is 0 where there is none; lesion_x and lesion_y are
    its centre in the head.
    """

    scale: Array
    tilt: Array
    shift_x: Array
    shift_y: Array
    width: Array
    ventricles: Array
    contrast: Array
    noise: Array
    lesion_radius: Array
    lesion_x: Array
    lesion_y: Array

    def __len__(self) -> int:
        return len(self.scale)

    def between(self, start: int, stop: int) -> "Patients":
        """The patients from `start` up to `stop`, as columns (n, 1, 1) that fit pictures."""
        return Patients(
            **{field.name: getattr(self, field.name)[start:stop, None, None] for field in fields(self)}
        )


def draw_slices(patients: Patients, size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """One slice of each patient: (N, 1, size, size) float32 in [-1, 1]."""
    batches = [
        _draw(patients.between(start, start + _BATCH), size, rng) for start in range(0, len(patients), _BATCH)
    ]
    signal = np.concatenate(batches)[:, None].astype(np.float32, copy=False)
    return np.clip(signal, 0, 1) * np.float32(2) - np.float32(1)


def _draw(patients: Patients, size: int, rng: np.random.Generator) -> Array:
    """The signal (n, size, size) float32, 0 for air."""
    x, y = _head_coordinates(patients, size)
    # Edges are one pixel wide, so that a slice of few pixels is smooth and not jagged.
    pixel = np.float32(2.0 / size) / patients.scale
    n = len(x)
    depth = _depth(x / patients.width, y, rng)
    inside = _ramp(depth, pixel)
    brain = _ramp(depth - 0.13, pixel)
    tissue = _brain(x, y, depth, patients, pixel, rng)
    layers = _SCALP + (_SKULL - _SCALP) * _ramp(depth - 0.055, pixel)
    layers = layers + (tissue - layers) * brain
    gain = np.float32(0.45) + np.float32(0.75) * patients.contrast
    shaded = (_MIDDLE + (layers - _MIDDLE) * gain) * (1 + np.float32(0.07) * _field(n, size, 3, rng))
    return _magnitude(np.maximum(shaded, 0) * inside, patients.noise, rng)


def _head_coordinates(patients: Patients, size: int) -> tuple[Array, Array]:
    """Where each pixel lies in the head: x and y, (n, size, size)."""
    middle = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / size) - np.float32(1)
    right = middle[None, None, :] - patients.shift_x
    up = -middle[None, :, None] - patients.shift_y
    cos, sin = np.cos(patients.tilt) / patients.scale, np.sin(patients.tilt) / patients.scale
    return right * cos + up * sin, up * cos - right * sin


def _depth(x: Array, y: Array, rng: np.random.Generator) -> Array:
    """How far each pixel lies under the skin, about 0.85 at the middle and negative outside: (n, size, size).

    Heads are ellipses, a little narrower in front, with a slow wobble of their own.
    """
    n = len(x)
    narrowing = 1 + np.float32(0.10) * y
    radius = np.sqrt((x * narrowing / HEAD_WIDTH) ** 2 + (y / HEAD_HEIGHT) ** 2)
    angle = np.arctan2(y, x)
    wobble = sum(
        np.cos(k * angle + _uniform(rng, n, 0, 2 * np.pi)) * _uniform(rng, n, 0, 0.02) for k in (2, 3)
    )
    return np.float32(0.85) * (1 - radius * (1 + wobble))


def _brain(
    x: Array, y: Array, depth: Array, patients: Patients, pixel: Array, rng: np.random.Generator
) -> Array:
    """The brightness of what lies inside the skull: (n, size, size)."""
    n, size = len(x), x.shape[-1]
    folds, creases, patchy = _field(n, size, 15, rng), _field(n, size, 15, rng), _field(n, size, 9, rng)
    tissue = _GREY + (_WHITE - _GREY) * _ramp(depth - 0.255 - np.float32(0.045) * folds, pixel)
    tissue = tissue + np.float32(0.018) * patchy
    for sign in (-1, 1):
        thalamus = _ellipse(x, y, (sign * 0.13, -0.03), (0.08, 0.13), 0.0, pixel)
        putamen = _ellipse(x, y, (sign * 0.29, 0.06), (0.06, 0.17), sign * 0.25, pixel)
        tissue = tissue + (_GREY - tissue) * np.maximum(thalamus, putamen)
    tissue = _with_lesion(tissue, x, y, patients, pixel, rng)
    # Furrows run in from the surface along the zeros of a random field, and fluid lies between brain and skull.
    furrow = np.clip(1 - np.abs(creases) * np.float32(2.2), 0, 1) * _ramp(np.float32(0.26) - depth, 3 * pixel)
    cleft = _ramp(np.float32(0.012) - np.abs(x), pixel) * _ramp(np.abs(y) - 0.34, pixel) * np.float32(0.8)
    rim = _ramp(np.float32(0.155) - depth, pixel)
    fluid = np.maximum.reduce([furrow * np.float32(0.9), cleft, rim, _ventricles(x, y, patients, pixel)])
    filled: Array = tissue + (_FLUID - tissue) * fluid
    return filled


def _ventricles(x: Array, y: Array, patients: Patients, pixel: Array) -> Array:
    """How much of each pixel is ventricle: (n, size, size) in [0, 1]."""
    grown = patients.ventricles
    parts = [_ellipse(x, y, (0.0, -0.05), (0.018, 0.10), 0.0, pixel)]
    for sign in (-1, 1):
        front = (0.055 * grown, 0.17 * grown)
        parts.append(_ellipse(x, y, (sign * 0.10, 0.21), front, sign * -0.30, pixel))
        back = (0.055 * grown, 0.19 * grown)
        parts.append(_ellipse(x, y, (sign * 0.17, -0.25), back, sign * 0.42, pixel))
    covered: Array = np.maximum.reduce(parts)
    return covered


def _with_lesion(
    tissue: Array, x: Array, y: Array, patients: Patients, pixel: Array, rng: np.random.Generator
) -> Array:
    """The tissue with a bright, ragged lesion in a less bright swelling, where the patient has one."""
    n = len(x)
    dx, dy = x - patients.lesion_x, y - patients.lesion_y
    angle = np.arctan2(dy, dx)
    ragged = sum(
        np.cos(k * angle + _uniform(rng, n, 0, 2 * np.pi)) * _uniform(rng, n, 0, 0.5 / k) for k in (2, 3, 5)
    )
    distance = np.sqrt(dx**2 + dy**2) * (1 + np.float32(0.6) * ragged)
    there = (patients.lesion_radius > 0).astype(np.float32)
    swelling = _ramp(np.float32(1.25) * patients.lesion_radius - distance, np.float32(1.5) * pixel) * there
    core = _ramp(np.float32(0.85) * patients.lesion_radius - distance, pixel) * there
    tissue = tissue + (_OEDEMA - tissue) * swelling
    return tissue + (_LESION - tissue) * core


def _ellipse(
    x: Array,
    y: Array,
    centre: tuple[float, float],
    axes: tuple[float | Array, float | Array],
    turn: float,
    pixel: Array,
) -> Array:
    """How much of each pixel an ellipse covers, turned anticlockwise by `turn` radians: (n, size, size) in [0, 1]."""
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    dx, dy = x - np.float32(centre[0]), y - np.float32(centre[1])
    along, across = (dx * cos + dy * sin) / axes[0], (dy * cos - dx * sin) / axes[1]
    return _ramp((1 - np.sqrt(along**2 + across**2)) * axes[0], pixel)


def _ramp(distance: Array, pixel: Array) -> Array:
    """From 0 outside an edge to 1 inside it, over the width of a pixel; `distance` is positive inside."""
    covered: Array = np.clip(distance / pixel + np.float32(0.5), 0, 1)
    return covered


def _field(n: int, size: int, knots: int, rng: np.random.Generator) -> Array:
    """Smooth random fields of mean 0 and variance about 1: (n, size, size), noise on knots×knots points joined smoothly."""
    position = np.linspace(0, knots - 1, size, dtype=np.float32)
    gap = np.abs(position[:, None] - np.arange(knots, dtype=np.float32)[None])
    weight = np.exp(-(gap**2) / np.float32(2 * 0.6**2))
    weight /= np.sqrt((weight**2).sum(axis=1, keepdims=True))
    noise = rng.standard_normal((n, knots, knots), dtype=np.float32)
    field: Array = weight @ noise @ weight.T
    return field


def _magnitude(signal: Array, noise: Array, rng: np.random.Generator) -> Array:
    """The magnitude of a complex signal with Gaussian noise in both parts, as a scanner shows it (Gudbjartsson & Patz 1995)."""
    real = signal + noise * rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary = noise * rng.standard_normal(signal.shape, dtype=np.float32)
    magnitude: Array = np.hypot(real, imaginary)
    return magnitude


def _uniform(rng: np.random.Generator, n: int, low: float, high: float) -> Array:
    """One number for each of n pictures: (n, 1, 1) float32."""
    return rng.uniform(low, high, (n, 1, 1)).astype(np.float32)
