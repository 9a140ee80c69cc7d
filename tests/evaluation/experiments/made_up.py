"""Figures that nobody measured, to see what is said of them."""

from evaluation.measuring.quality import ClientQuality, Quality
from evaluation.metrics.estimate import Estimate
from evaluation.metrics.sets import SetFidelity


def quality(*fids: float, agreement: float | None = None) -> Quality:
    """A set-up of one client, with one FID for each seed; KID is a hundredth of it, the shares are 0.5."""
    return Quality(tuple((_client(fid, agreement),) for fid in fids))


def _client(fid: float, agreement: float | None) -> ClientQuality:
    half = Estimate(0.5, 0.4, 0.6)
    known = None if agreement is None else Estimate(agreement, agreement, agreement)
    figures = SetFidelity(
        fid=Estimate(fid, fid - 1.0, fid + 1.0),
        kid=Estimate(fid / 100, fid / 100, fid / 100),
        precision=half,
        recall=half,
        agreement=known,
        extractor="nobody",
        judge=None,
        size=16,
        dimensions=4,
        draws=2,
    )
    return ClientQuality(figures, figures)
