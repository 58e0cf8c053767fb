"""CrossVideoMAE against VideoMAE at equal compute, and without each of its contrastive terms (sheet 01)."""

from __future__ import annotations

from benchmarks.claims._videos import BATCH, ENCODER, fit, probes, small_encoder, step_seconds, widelands
from benchmarks.claims.common import Result, judge
from ssl_domains.core.grid_masking import TubeMask
from ssl_domains.core.interfaces import Source
from ssl_domains.core.methods.base import Method
from ssl_domains.core.methods.masked_reconstruction import MaskedReconstruction
from ssl_domains.core.objectives.regression import MaskedMSE
from ssl_domains.video.cross_video_mae import CrossVideoMAE
from ssl_domains.video.views import ClipAndFrames, ClipAugment

STEPS = 65
"""Of CrossVideoMAE; the others get as many as take the same time."""
LIMIT: int | None = None
SHOTS = {"tribe": 20, "heading": 20}
DECODER = {"width": 64, "depth": 2, "heads": 4}
WHOLE, BASE = "CrossVideoMAE", "VideoMAE"
CONDITIONS = {
    WHOLE: {},
    "without contrast within": {"within": 0.0},
    "without contrast across": {"across": 0.0},
    "without both": {"within": 0.0, "across": 0.0},
    BASE: None,
}


def make(name: str, source: Source, seed: int) -> Method:
    """Both with crops, without flips (they change the heading); hidden shares of 0.9."""
    options = CONDITIONS[name]
    if options is None:
        encoder = small_encoder(source, seed)
        views = ClipAugment(source.spec, "mae", n_views=1, flip=0.0)
        return MaskedReconstruction(encoder, MaskedMSE(), TubeMask(0.9), predictor=DECODER, views=views)
    encoder = small_encoder(source, seed, positions="learned", normalize_target="patch", target_frames=1)
    views = ClipAndFrames(source.spec, flip=0.0)
    return CrossVideoMAE(
        encoder, views, source.spec, predictor=DECODER, image_predictor=DECODER, image_lr=1.0, **options
    )


def run(seeds: int) -> Result:
    """All conditions, seeds paired; steps so that each takes the time of the whole method."""
    sources = {key: widelands(key, "unit", LIMIT) for key in SHOTS}
    source = sources["tribe"]
    seconds = {name: step_seconds(make(name, source, 0), source) for name in CONDITIONS}
    steps = {name: max(round(STEPS * seconds[WHOLE] / value), 1) for name, value in seconds.items()}
    values: dict[str, list[float]] = {}
    for name in CONDITIONS:
        for seed in range(seeds):
            method = make(name, source, seed)
            fit(method, source, seed, steps[name])
            for key, value in probes(method.encoder, sources, SHOTS).items():
                values.setdefault(f"{name} ({steps[name]} steps): {key}", []).append(value)
    for seed in range(seeds):
        for key, value in probes(small_encoder(source, seed), sources, SHOTS).items():
            values.setdefault(f"untrained: {key}", []).append(value)

    def of(name: str, key: str) -> list[float]:
        return next(v for k, v in values.items() if k.startswith(f"{name} (") and k.endswith(f": {key}"))

    verdicts = {
        f"{key} against {name}": judge(of(WHOLE, key), of(name, key))
        for key in SHOTS
        for name in list(CONDITIONS)[1:]
    }
    return Result(
        name="cross_video_mae",
        paper="CrossVideoMAE (2025)",
        claim="At equal compute CrossVideoMAE's clips tell more of what is seen than VideoMAE's.",
        setting=f"{len(source):,} clips of 8 frames of 40 x 40 pixels of Widelands; test units are unseen; {ENCODER}, batch {BATCH}, "
        "steps by measured processor time; no image pre-training.",
        metric=f"accuracy of a linear probe on {SHOTS['tribe']} labels a class; higher is better",
        values=values,
        verdict=verdicts[f"tribe against {BASE}"],
        notes="Verdicts (the paper expects gains from both contrastive terms; heading asks for pose): "
        + "; ".join(f"{k}: {v}" for k, v in verdicts.items())
        + ".",
    )
