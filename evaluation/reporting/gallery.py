"""The pictures of a report: images as PNG data URIs, a client's gallery, and the chain with its cuts as one drawing."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from evaluation.errors import DataError

IMAGES_PER_ROW = 10


@dataclass(frozen=True, eq=False)
class Gallery:
    """Images of one client, column by column under the same label; all (n, C, H, W) float32, C = 1 or 3.

    labels: (n,) int32. at_cut: as they came from the server, values may leave [-1, 1]. finished: the same
    after the head. isolated: same labels, from the client's isolated model. real: held-out images of the
    same labels.
    """

    client: str
    labels: NDArray[np.int32]
    at_cut: NDArray[np.float32]
    finished: NDArray[np.float32]
    isolated: NDArray[np.float32]
    real: NDArray[np.float32]

    def __post_init__(self) -> None:
        for name in ("at_cut", "finished", "isolated", "real"):
            shape = getattr(self, name).shape
            if shape != (len(self.labels), *self.finished.shape[1:]):
                raise DataError(
                    f"gallery of {self.client}: {name} {shape} does not match the {len(self.labels)} labels"
                )


@dataclass(frozen=True)
class GalleryRow:
    """One line of a gallery: what is shown, in words, and the images as data URIs."""

    title: str
    note: str
    images: tuple[str, ...]


@dataclass(frozen=True)
class GalleryBlock:
    """Up to ten labels, and four lines of images under them."""

    labels: tuple[int, ...]
    rows: tuple[GalleryRow, ...]


@dataclass(frozen=True)
class CutLine:
    """One client's division of the chain: cut at `t_cut`, and network evaluations on both sides of it."""

    client: str
    t_cut: int
    server: int
    device: int


def png_data_uri(image: NDArray[np.floating]) -> str:
    """One image (C, H, W), C = 1 or 3, as a PNG: −1 is black, 1 is white, values beyond are clipped."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise DataError(f"no picture of an image of shape {image.shape}: expected (1 or 3, H, W)")
    levels = np.clip(np.rint((image.astype(np.float64) + 1.0) * 127.5), 0, 255).astype(np.uint8)
    picture = Image.fromarray(
        levels[0] if image.shape[0] == 1 else np.ascontiguousarray(levels.transpose(1, 2, 0))
    )
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def blocks(gallery: Gallery) -> tuple[GalleryBlock, ...]:
    """A gallery cut into blocks of ten columns."""
    lines = (
        ("At the cut", "what the server sends back", gallery.at_cut),
        ("Finished", "the same, after the head on the device", gallery.finished),
        ("Isolated", "a model trained on this client's data alone", gallery.isolated),
        ("Real", "held-out scans with these labels", gallery.real),
    )
    starts = range(0, len(gallery.labels), IMAGES_PER_ROW)
    return tuple(
        GalleryBlock(
            tuple(int(label) for label in gallery.labels[start : start + IMAGES_PER_ROW]),
            tuple(
                GalleryRow(title, note, tuple(map(png_data_uri, images[start : start + IMAGES_PER_ROW])))
                for title, note, images in lines
            ),
        )
        for start in starts
    )


def chain_svg(
    image: NDArray[np.float32],
    alpha_bar: NDArray[np.float64],
    cuts: Sequence[CutLine],
    *,
    width: int,
    frames: int,
) -> str:
    """The chain from noise (left) to image (right), and under it one bar per client that changes hands at its cut.

    image: (C, H, W), noised to `frames` levels with one draw of noise. alpha_bar: (T+1,) float64. Positions
    are linear in t.
    """
    T, side, left = len(alpha_bar) - 1, min(64, (width - 20) // (frames + 1)), 2
    first, last = left + side / 2, width - left - side / 2
    noise = np.random.default_rng(0).standard_normal(image.shape)
    bars_top, pitch = side + 44, 40
    parts = []
    for t in np.linspace(T, 0, frames).round().astype(int):
        x = first + (last - first) * (T - t) / T
        noised = np.sqrt(alpha_bar[t]) * image + np.sqrt(1.0 - alpha_bar[t]) * noise
        parts.append(
            f'<image href="{png_data_uri(noised)}" x="{x - side / 2:.1f}" y="0" width="{side}" height="{side}"/>'
            f'<text class="tick" x="{x:.1f}" y="{side + 16}" text-anchor="middle">{f"t = {t}" if t in (T, 0) else t}</text>'
        )
    for row, cut in enumerate(cuts):
        x = first + (last - first) * (T - cut.t_cut) / T
        parts.append(_bar(cut, first, x, last, bars_top + row * pitch))
    height = bars_top + len(cuts) * pitch
    return (
        f'<svg class="chain" viewBox="0 0 {width} {height}" role="img" aria-label="The chain from noise to image, '
        f'cut between server and device">{"".join(parts)}</svg>'
    )


def _bar(cut: CutLine, first: float, x: float, last: float, y: float) -> str:
    """A client's name, its server part, its device part, and the cut between them."""
    sides = (("server", first, x, cut.server), ("device", x, last, cut.device))
    drawn = "".join(
        f'<rect class="{name}" x="{a:.1f}" y="{y}" width="{max(b - a, 0):.1f}" height="18"/>'
        f'<text class="on" x="{(a + b) / 2:.1f}" y="{y + 13}" text-anchor="middle">{_count(name, n, b - a)}</text>'
        for name, a, b, n in sides
        if b - a > 12
    )
    return (
        f'<text class="name" x="{first:.1f}" y="{y - 5}">{escape(cut.client)}</text>{drawn}'
        f'<line class="cut" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 6}" y2="{y + 24}"/>'
        f'<text class="tick" x="{x - 5:.1f}" y="{y - 5}" text-anchor="end">cut at t = {cut.t_cut}</text>'
    )


def _count(side: str, evaluations: int, width: float) -> str:
    for text in (f"{side}: {evaluations} evaluations", f"{side}: {evaluations}", str(evaluations)):
        if len(text) * 6.6 + 8 < width:
            return text
    return ""
