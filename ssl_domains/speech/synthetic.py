"""Generated speech: ``generated://speech``, words of a dozen sounds in several voices.

Sounds are harmonics or noise under three formants (Peterson & Barney, 1952, give the vowels'), voices
differ in pitch, length of the vocal tract and tilt. For trying things out; no number on it says anything
about people.
"""

from __future__ import annotations

from urllib.parse import parse_qsl

import numpy as np

from ssl_domains.core.errors import DataError
from ssl_domains.speech.listing import Listing, Segments, Utterance

RATE = 16000
TABLE = 1024
# Formants in Hz, and how much of the sound is voice (the rest is noise).
SOUNDS: dict[str, tuple[tuple[float, float, float], float]] = {
    "a": ((730, 1090, 2440), 1.0), "e": ((530, 1840, 2480), 1.0), "i": ((270, 2290, 3010), 1.0),
    "o": ((570, 840, 2410), 1.0), "u": ((300, 870, 2240), 1.0), "m": ((250, 1000, 2200), 0.95),
    "n": ((250, 1450, 2500), 0.95), "l": ((360, 1300, 2700), 0.98), "z": ((250, 4500, 6200), 0.4),
    "s": ((4200, 5500, 7000), 0.0), "f": ((1200, 4000, 7400), 0.0), "h": ((700, 1500, 2600), 0.0),
}  # fmt: skip
SILENCE = "sil"
KEYWORDS = ("mano", "sile", "fumi", "zola", "hane", "limu", "nesa", "oli")
FILLERS = ("le", "nua", "zi", "hom", "asi", "fe", "umo", "eni", "la", "sohu")


def is_generated(source: object) -> bool:
    """True for ``generated://...``."""
    return isinstance(source, str) and source.startswith("generated://")


def generate(source: str) -> Listing:
    """``generated://speech?utterances=240&speakers=8&seed=0``: up to four filler words around a keyword (the
    label), with the times of the sounds, the text and the speaker.

    Raises:
        DataError: another kind, or an unknown key.
    """
    kind, _, query = source.removeprefix("generated://").partition("?")
    if kind != "speech":
        raise DataError(f"{source}: use generated://speech")
    options = {"utterances": 240, "speakers": 8, "seed": 0}
    for key, value in parse_qsl(query):
        if key not in options or not value.isdigit() or (key != "seed" and int(value) < 1):
            raise DataError(f"{source}: {key}={value} is none of utterances, speakers (1 or more), seed")
        options[key] = int(value)
    rng = np.random.default_rng(options["seed"])
    voices = [_voice(rng) for _ in range(options["speakers"])]
    rows, arrays, segments = [], [], []
    for number in range(options["utterances"]):
        keyword, who = KEYWORDS[number % len(KEYWORDS)], int(rng.integers(len(voices)))
        before, after = rng.integers(0, 3, 2)
        words = [*rng.choice(FILLERS, before), keyword, *rng.choice(FILLERS, after)]
        samples, found = _say([str(w) for w in words], voices[who], rng)
        arrays.append(samples)
        segments.append(found)
        rows.append(
            Utterance(
                number,
                f"utterance {number}",
                text=" ".join(map(str, words)),
                speaker=f"speaker {who:02d}",
                label=keyword,
            )
        )
    names = [row.id for row in rows]
    return Listing(source, names, names, rows, segments, arrays=arrays, rate=RATE)


def _voice(rng: np.random.Generator) -> dict[str, float]:
    return {
        "pitch": float(np.exp(rng.uniform(np.log(90), np.log(240)))),
        "tract": float(rng.uniform(0.88, 1.15)),
        "tilt": float(rng.uniform(0.8, 2.0)),
        "pace": float(rng.uniform(0.85, 1.2)),
        "breath": float(rng.uniform(0.0, 0.1)),
    }


def _say(words: list[str], voice: dict[str, float], rng: np.random.Generator) -> tuple[np.ndarray, Segments]:
    """Samples of an utterance, and where its sounds are."""
    sounds = [SILENCE]
    for word in words:
        sounds += [*word, *([SILENCE] if rng.random() < 0.5 else [])]
    sounds += [] if sounds[-1] == SILENCE else [SILENCE]
    lengths = [int(RATE * rng.uniform(0.07, 0.15) / voice["pace"]) for _ in sounds]
    ends = np.cumsum(lengths)
    out = np.zeros(int(ends[-1]), dtype=np.float64)
    fade = int(0.012 * RATE)
    pitch = voice["pitch"] * np.exp(rng.normal(0, 0.06))
    for sound, length, end in zip(sounds, lengths, ends, strict=True):
        if sound == SILENCE:
            continue
        begin = max(int(end) - length - fade, 0)
        piece = _sound(sound, int(end) - begin, pitch * np.exp(rng.normal(0, 0.03)), voice, rng)
        ramp = np.minimum(1.0, np.arange(1, len(piece) + 1) / fade)
        out[begin : int(end)] += piece * ramp * np.minimum(1.0, ramp[::-1])
    loud = out / max(float(np.sqrt(np.mean(out**2))), 1e-9) * 0.08 * np.exp(rng.normal(0, 0.3))
    noise = rng.normal(0, 1, len(out)) * 0.08 * 10 ** (-rng.uniform(15, 30) / 20)
    start = np.concatenate([[0], ends[:-1]])
    return (loud + noise).clip(-1, 1).astype(np.float32), Segments(start / RATE, ends / RATE, sounds)


def _sound(
    name: str, length: int, pitch: float, voice: dict[str, float], rng: np.random.Generator
) -> np.ndarray:
    formants, voiced = SOUNDS[name]
    centres = np.array(formants) * voice["tract"] * np.exp(rng.normal(0, 0.03, 3))
    voiced = min(voiced, 1.0 - voice["breath"]) if voiced else 0.0
    out = np.zeros(length)
    if voiced:
        k = np.arange(1, int(0.45 * RATE / pitch))
        glide = pitch * (1 + 0.04 * np.sin(np.linspace(0, np.pi, length)))
        phase = 2 * np.pi * np.cumsum(glide) / RATE + rng.uniform(0, 2 * np.pi)
        spectrum = np.zeros(TABLE // 2 + 1)
        spectrum[k] = _envelope(k * pitch, centres) / k ** voice["tilt"]
        period = np.fft.irfft(spectrum, TABLE)  # one period, read at the pace of the phase
        tone = np.interp(phase / (2 * np.pi) % 1 * TABLE, np.arange(TABLE + 1), np.append(period, period[0]))
        out += voiced * tone / max(float(np.abs(tone).std()), 1e-9)
    if voiced < 1:
        white = np.fft.rfft(rng.normal(0, 1, length))
        hiss = np.fft.irfft(white * _envelope(np.fft.rfftfreq(length, 1 / RATE), centres), length)
        out += (1 - voiced) * hiss / max(float(hiss.std()), 1e-9)
    return out * (0.4 if name in "sfh" else 1.0)


def _envelope(frequency: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Height of three resonances at these frequencies."""
    width = 60 + 0.06 * centres
    return (1.0 / (1.0 + ((frequency[:, None] - centres) / width) ** 2) / (1, 2, 3)).sum(axis=1)
