"""Views of recordings, as batched tensor operations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssl_domains.core.batch import Batch, View
from ssl_domains.core.interfaces import Source, Views
from ssl_domains.core.random import Draw
from ssl_domains.core.registry import views
from ssl_domains.speech import effects
from ssl_domains.speech.sound import Sound
from ssl_domains.speech.sound_pool import NoisePool, RoomPool
from ssl_domains.speech.spec import SpeechSpec

Range = tuple[float, float]


def _range(value: Range | None, name: str, low: float) -> Range | None:
    if value is None:
        return None
    if len(value) != 2 or not low <= value[0] <= value[1]:
        raise ValueError(f"views.{name} must be [low, high] with {low:g} <= low <= high, got {list(value)}")
    return float(value[0]), float(value[1])


@views("sound_augment")
class SoundAugment(Views):
    """Crop, then pitch, speed, room, noise, gain and SpecAugment, each on a share of the recordings.

    Records ``applied [B, K]``: which of the operations that are on were done to a recording, in that order; a
    pretext task can predict it.

    Args:
        spec: the data.
        crop: seconds of a random stretch; shorter recordings stay whole. None: all of it.
        share: share of the recordings that each operation is done to. Default 0.5.
        speed: factors of the speed, as in Ko et al. (Interspeech 2015): [0.9, 1.1]; None: off.
        pitch: largest shift in semitones, up or down; 0: off.
        room: reverberation times in seconds; None: off.
        direct: dB of the direct sound over the reverberation.
        rooms_from: impulse responses to take instead of made-up ones (``room`` and ``direct`` then say
            nothing): a folder, manifest or file, as ``data.source`` takes them.
        noise: signal-to-noise ratios in dB; None: off.
        noise_from: noises to take instead of coloured noise, as ``rooms_from``.
        pool: at most so many seconds of each are decoded, once, and kept in memory. Default 600.
        gain: changes of loudness in dB; None: off. Features scale it away by default.
        time_masks: stretches that SpecAugment hides (Park et al., Interspeech 2019). Default 2.
        time_share: longest of them, as a share of the recording. Default 0.1.
        band_masks: bands that it hides. Default 2.
        band_share: widest of them, as a share of the bands. Default 27 of 80, as in the paper.
        n_views: number of views.

    Raises:
        ValueError: a value out of range.
    """

    def __init__(
        self,
        spec: SpeechSpec | None = None,
        crop: float | None = 2.0,
        share: float = 0.5,
        speed: Range | None = (0.9, 1.1),
        pitch: float = 0.0,
        room: Range | None = (0.1, 0.6),
        direct: Range = (0.0, 12.0),
        rooms_from: str | None = None,
        noise: Range | None = (5.0, 30.0),
        noise_from: str | None = None,
        pool: float = 600.0,
        gain: Range | None = (-6.0, 6.0),
        time_masks: int = 2,
        time_share: float = 0.1,
        band_masks: int = 2,
        band_share: float = 0.3375,
        n_views: int = 2,
    ) -> None:
        if crop is not None and not crop > 0:
            raise ValueError(f"views.crop must be above 0 seconds, got {crop}")
        for name, value in (("share", share), ("time_share", time_share), ("band_share", band_share)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"views.{name} must lie in [0, 1], got {value}")
        if not 0 <= pitch <= 24 or min(time_masks, band_masks) < 0 or n_views < 1:
            raise ValueError(
                "views.pitch lies in [0, 24], masks cannot be negative, and n_views is at least 1"
            )
        if noise_from is not None and noise is None:
            raise ValueError("views.noise_from wants views.noise, the range of signal-to-noise ratios in dB")
        self.pools = Pools(spec, pool, noise_from, rooms_from)
        self.spec, self.crop, self.share, self.pitch, self.n_views = spec, crop, share, pitch, n_views
        self.speed, self.room = _range(speed, "speed", 0.1), _range(room, "room", 0.01)
        self.direct, self.noise = _range(direct, "direct", -60.0), _range(noise, "noise", -60.0)
        self.gain = _range(gain, "gain", -60.0)
        self.time_masks, self.time_share = time_masks, time_share
        self.band_masks, self.band_share = band_masks, band_share
        on = {"pitch": pitch, "speed": speed, "room": room or rooms_from, "noise": noise, "gain": gain,
              "spec_augment": time_masks + band_masks}  # fmt: skip
        self.operations = [name for name, value in on.items() if value]

    @property
    def rate(self) -> int:
        """Samples a second."""
        return self.spec.rate if self.spec is not None else 16000

    def prepare(self, source: Source) -> None:
        """Decodes noises and rooms of one's own."""
        self.pools.load()

    def target_width(self, name: str, spec: SpeechSpec) -> int:
        """Number of operations that are on."""
        if name != "applied":
            raise KeyError(f"sound_augment records applied, not {name!r}")
        return len(self.operations)

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        """``n_views`` independent views of a :class:`Sound`."""
        return [self._view(batch.x, draw) for _ in range(self.n_views)]

    def _view(self, x: Sound, draw: Draw) -> View:
        x = random_crop(x, self.crop, self.rate, draw)
        applied = []
        for name in self.operations:
            takes = draw.bernoulli(self.share)
            x = getattr(self, f"_{name}")(x, takes, draw)
            applied.append(takes)
        return View(x, "global", {"applied": torch.stack(applied, dim=1)} if applied else {})

    def _pitch(self, x: Sound, takes: Tensor, draw: Draw) -> Sound:
        factor = 2 ** (draw.uniform(low=-self.pitch, high=self.pitch) / 12)
        moved = effects.higher(x, factor, 2 ** (self.pitch / 12))
        return x.with_values(torch.where(takes[:, None], moved.values, x.values))

    def _speed(self, x: Sound, takes: Tensor, draw: Draw) -> Sound:
        assert self.speed is not None
        factor = draw.uniform(low=self.speed[0], high=self.speed[1])
        return effects.faster(x, torch.where(takes, factor, 1.0), min(self.speed[0], 1.0))

    def _room(self, x: Sound, takes: Tensor, draw: Draw) -> Sound:
        if self.pools.rooms_from is not None:
            wet = effects.convolved(x, self.pools.rooms(x.values.device).draw(draw))
            return x.with_values(torch.where(takes[:, None], wet.values, x.values))
        assert self.room is not None
        assert self.direct is not None
        seconds = draw.uniform(low=self.room[0], high=self.room[1])
        direct = draw.uniform(low=self.direct[0], high=self.direct[1])
        wet = effects.in_room(x, seconds, self.room[1], direct, self.rate, draw)
        return x.with_values(torch.where(takes[:, None], wet.values, x.values))

    def _noise(self, x: Sound, takes: Tensor, draw: Draw) -> Sound:
        assert self.noise is not None
        snr = draw.uniform(low=self.noise[0], high=self.noise[1])
        noisy = effects.mixed(x, self.pools.noise(x.values, self.rate, draw), snr)
        return x.with_values(torch.where(takes[:, None], noisy.values, x.values))

    def _gain(self, x: Sound, takes: Tensor, draw: Draw) -> Sound:
        assert self.gain is not None
        db = draw.uniform(low=self.gain[0], high=self.gain[1])
        return x.with_values(x.values * torch.where(takes, 10 ** (db / 20), 1.0)[:, None])

    def _spec_augment(self, x: Sound, takes: Tensor, draw: Draw) -> Sound:
        parts = []
        masks = (0, self.time_masks, self.time_share), (1, self.band_masks, self.band_share)
        for axis, count, largest in masks:
            if count:
                width = draw.uniform(count) * largest * takes[:, None]
                start = draw.uniform(count) * (1 - width)
                parts.append(torch.stack([torch.full_like(start, axis), start, start + width], dim=-1))
        return Sound(x.values, x.lengths, torch.cat(parts, dim=1))


class Pools:
    """Noises and rooms of one's own, decoded when they are first wanted.

    So views can be built, and a run evaluated, where the folders are not at hand.

    Args:
        spec: the data.
        seconds: at most so much of each.
        noise_from, rooms_from: see :mod:`ssl_domains.speech.sound_pool`; None: made-up ones are used.

    Raises:
        ValueError: ``seconds`` not above 0.
    """

    def __init__(
        self, spec: SpeechSpec | None, seconds: float, noise_from: str | None, rooms_from: str | None = None
    ) -> None:
        if not seconds > 0:
            raise ValueError(f"views.pool must be above 0 seconds, got {seconds}")
        self.rate, self.seconds = spec.rate if spec is not None else 16000, seconds
        self.noise_from, self.rooms_from = noise_from, rooms_from
        self._noise: NoisePool | None = None
        self._rooms: RoomPool | None = None

    def load(self) -> None:
        """Decodes what was asked for, unless that is done.

        Raises:
            DataError: nothing there that can be used.
        """
        if self.noise_from is not None and self._noise is None:
            self._noise = NoisePool(self.noise_from, self.rate, self.seconds)
        if self.rooms_from is not None and self._rooms is None:
            self._rooms = RoomPool(self.rooms_from, self.rate, self.seconds)

    def noise(self, like: Tensor, rate: int, draw: Draw) -> Tensor:
        """Noise of the shape of ``like [B, T]``: one's own, or coloured noise."""
        self.load()
        if self._noise is None:
            return effects.coloured_noise(like, rate, draw)
        return self._noise.to(like.device).draw(like.shape[1], draw)

    def rooms(self, device: torch.device) -> RoomPool:
        """The impulse responses."""
        self.load()
        assert self._rooms is not None
        return self._rooms.to(device)


def random_crop(x: Sound, seconds: float | None, rate: int, draw: Draw) -> Sound:
    """A random stretch of at most so many seconds of each recording."""
    if seconds is None:
        return x
    longest = min(max(math.floor(seconds * rate), 1), x.values.shape[1])
    length = x.lengths.clamp_max(longest)
    start = (draw.uniform().double() * (x.lengths - length + 1)).long()
    return effects.cropped(x, start, length, longest)


@views("sound_crop")
class SoundCrop(Views):
    """A random stretch, and nothing else: what masked methods read of long recordings (TERA: 1,500 frames).

    Args:
        spec: the data.
        crop: its seconds. Default 15.
    """

    n_views = 1

    def __init__(self, spec: SpeechSpec | None = None, crop: float = 15.0) -> None:
        if not crop > 0:
            raise ValueError(f"views.crop must be above 0 seconds, got {crop}")
        self.spec, self.crop = spec, crop

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        """One view of a :class:`Sound`."""
        rate = self.spec.rate if self.spec is not None else 16000
        return [View(random_crop(batch.x, self.crop, rate, draw))]


@views("utterance_mixing")
class UtteranceMixing(Views):
    """WavLM's mixing (Chen et al., JSTSP 2022, section IV-A): a stretch of another recording of the batch,
    or noise, is laid over a part of a recording; its targets are those of the clean one.

    The first view is mixed (role ``mixed``), the second clean (role ``clean``), both of the same crop.

    Args:
        spec: the data.
        crop: seconds of a random stretch that both views are of. None: all.
        share: share of the recordings that are mixed. Default 0.2.
        noise_share: of these, how many get noise instead of a recording. Default 0.1.
        speech_snr: dB of a recording over the other one. Default [-5, 5].
        noise_snr: dB of a recording over noise. Default [-5, 20].
        longest: longest part that is mixed, as a share of the recording. Default 0.5.
        noise_from: a folder, manifest or file of noises (the paper takes the DNS challenge's); None: coloured
            noise.
        pool: at most so many seconds of them are decoded, once, and kept in memory. Default 600.

    Raises:
        ValueError: a value out of range.
    """

    n_views = 2

    def __init__(
        self,
        spec: SpeechSpec | None = None,
        crop: float | None = 15.0,
        share: float = 0.2,
        noise_share: float = 0.1,
        speech_snr: Range = (-5.0, 5.0),
        noise_snr: Range = (-5.0, 20.0),
        longest: float = 0.5,
        noise_from: str | None = None,
        pool: float = 600.0,
    ) -> None:
        for name, value in (("share", share), ("noise_share", noise_share), ("longest", longest)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"views.{name} must lie in [0, 1], got {value}")
        if crop is not None and not crop > 0:
            raise ValueError(f"views.crop must be above 0 seconds, got {crop}")
        self.spec, self.crop, self.share, self.noise_share = spec, crop, share, noise_share
        self.speech_snr = _range(speech_snr, "speech_snr", -60)
        self.noise_snr = _range(noise_snr, "noise_snr", -60)
        self.longest = longest
        self.pools = Pools(spec, pool, noise_from)

    def prepare(self, source: Source) -> None:
        """Decodes noises of one's own."""
        self.pools.load()

    def __call__(self, batch: Batch, draw: Draw) -> list[View]:
        """The mixed and the clean view."""
        assert self.speech_snr is not None
        assert self.noise_snr is not None
        rate = self.spec.rate if self.spec is not None else 16000
        clean = random_crop(batch.x, self.crop, rate, draw)
        n, size = clean.values.shape[1], len(clean)
        takes, noisy = draw.bernoulli(self.share), draw.bernoulli(self.noise_share)
        if size < 2:
            noisy = torch.ones_like(noisy)
        other = (torch.arange(size, device=noisy.device) + 1 + draw.randint(max(size - 1, 1))) % size
        length = (draw.uniform() * self.longest * clean.lengths).long()
        start = (draw.uniform() * (clean.lengths - length + 1)).long()
        begin = (draw.uniform() * (clean.lengths[other] - length).clamp_min(0)).long()
        step = torch.arange(n, device=noisy.device)
        at = (step - start[:, None] + begin[:, None]).clamp(0, n - 1)
        speech = torch.gather(clean.values[other], 1, at)
        added = torch.where(noisy[:, None], self.pools.noise(clean.values, rate, draw), speech)
        inside = (step >= start[:, None]) & (step < (start + length)[:, None]) & takes[:, None]
        u = draw.uniform()
        snr = torch.where(
            noisy,
            self.noise_snr[0] + u * (self.noise_snr[1] - self.noise_snr[0]),
            self.speech_snr[0] + u * (self.speech_snr[1] - self.speech_snr[0]),
        )
        mixed = effects.mixed(clean, added.masked_fill(~inside, 0.0), snr)
        return [View(mixed, "mixed", {"mixed": takes}), View(clean, "clean")]
