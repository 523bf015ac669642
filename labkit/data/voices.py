"""Spoken digits from formant tracks: the speech half of the procedural digits.

A digit is three resonances that move through four knots of time under an envelope. A speaker shifts
and tilts them, a sample is faster or slower, louder or softer, and cleaner or noisier. The log-mel
picture of that is turned into cepstra as a real recording's is: DCT-II, 13 coefficients, 20 frames.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labkit.data.draws import Draws

FRAMES = 20
CEPSTRA = 13
BANDS = 26
SPEAKERS = 6

# digit -> formants F1, F2, F3 (Hz) and the loudness of voice, of F3 (hiss) and of the whole (nats),
# each at the start, at one third, at two thirds and at the end of the word.
WORDS: dict[int, tuple[tuple[float, ...], ...]] = {
    0: ((300, 340, 450, 480), (1850, 1800, 1200, 900), (2700, 2500, 1700, 2300),
        (-1.5, 0, 0, 0), (1.5, 0, 0, 0), (-1, 0, 0, -1)),
    1: ((350, 650, 620, 320), (750, 1150, 1300, 1400), (2300, 2400, 2500, 2500),
        (0, 0, 0, 0), (-1, 0, 0, 0), (-1, 0, 0, -1.5)),
    2: ((300, 320, 320, 320), (1800, 1400, 1100, 950), (2800, 2400, 2200, 2200),
        (-2, 0, 0, 0), (1.5, 0, 0, -0.5), (0.5, 0, 0, -1)),
    3: ((350, 400, 300, 280), (1300, 1350, 2150, 2300), (2600, 1800, 2800, 3000),
        (-1.5, 0, 0, 0), (0.5, 0, 0.5, 0.5), (-1.5, 0, 0, -1)),
    4: ((480, 560, 530, 450), (850, 820, 950, 1200), (2400, 2500, 2100, 1700),
        (-1.5, 0, 0, 0), (0, -0.5, 0, 0), (-1.5, 0, 0, -1)),
    5: ((600, 740, 560, 350), (1150, 1200, 1800, 1600), (2500, 2500, 2600, 2400),
        (-1.5, 0, 0, -0.5), (0.5, 0, 0, 0), (-1.5, 0, 0, -1.5)),
    6: ((400, 420, 400, 350), (1900, 1900, 1950, 1850), (3100, 2700, 2700, 3200),
        (-3, 0, -1, -3), (2, 0, 0, 2), (-0.5, 0, -1.5, 0)),
    7: ((430, 580, 420, 350), (1800, 1700, 1400, 1450), (3000, 2500, 2450, 2500),
        (-3, 0, 0, 0), (2, 0, 0, -0.5), (-0.5, 0, 0, -1)),
    8: ((500, 450, 350, 330), (1850, 2050, 2200, 2050), (2600, 2650, 2750, 2900),
        (0, 0, 0, -2), (0, 0, 0.5, 1.5), (-0.5, 0, 0, -1.5)),
    9: ((330, 700, 540, 320), (1400, 1250, 1800, 1500), (2500, 2500, 2600, 2500),
        (0, 0, 0, 0), (-1, 0, 0, -0.5), (-1, 0, 0, -1)),
}  # fmt: skip
# A mumbled word drifts towards the one it sounds like; not the pairs that the scripts confuse.
PARTNER = {5: 9, 9: 5, 3: 8, 8: 3, 1: 4, 4: 1}
SLOP = 0.21  # scale of that drift at difficulty 1; 0.5 is half-way
BAND_WIDTH = (0.05, 0.055, 0.07)  # of the three resonances, on the mel axis
FLOOR = -4.0  # log-energy of a quiet room


def _mel(hertz: Tensor) -> Tensor:
    """Place on the mel axis: 0 at 80 Hz, 1 at 4000 Hz (O'Shaughnessy's formula)."""
    low, high = (math.log1p(edge / 700) for edge in (80.0, 4000.0))
    return (torch.log1p(hertz / 700) - low) / (high - low)


def _words() -> Tensor:
    """The table of words with formants in mel. Shape (10, 6, 4)."""
    table = torch.tensor([WORDS[digit] for digit in range(10)], dtype=torch.float32)
    return torch.cat([_mel(table[:, :3]), table[:, 3:]], 1)


def speakers() -> dict[str, Tensor]:
    """The six speakers, one population whatever the seed of the data.

    Returns:
        `shift`: vocal-tract shift on the mel axis, (6,); `tilt`: slope of the spectrum in nats, (6,);
        `accent`: offset of each formant of each digit on the mel axis, (6, 10, 3).
    """
    voices = Draws(torch.arange(SPEAKERS), "speakers")
    spread = torch.linspace(-1, 1, SPEAKERS)  # evenly spread, so that no two are alike by accident
    order = Draws(torch.arange(1), "speakers").bits("order", SPEAKERS)[0].argsort()
    return {
        "shift": 0.05 * spread,
        "tilt": 1.5 * spread[order],
        "accent": 0.015 * voices.normal("accent", 10, 3),
    }


def dct_matrix() -> Tensor:
    """Orthonormal DCT-II from mel bands to cepstra, shape (13, 26)."""
    k, b = torch.arange(CEPSTRA)[:, None], torch.arange(BANDS)[None, :]
    rows = torch.cos(math.pi * k * (b + 0.5) / BANDS) * math.sqrt(2 / BANDS)
    rows[0] /= math.sqrt(2)
    return rows


def draw_factors(
    draws: Draws, rate: Tensor, cast: list[int], difficulty: float
) -> dict[str, Tensor]:
    """Draw what makes each utterance its own; `rate` comes standardised, from outside.

    Args:
        draws: Random numbers of these samples.
        rate: Standard normal, shape (B,).
        cast: Speakers who may speak.
        difficulty: Scale of noise and drift.
    """
    people = torch.tensor(cast, device=rate.device)
    return {
        "rate": torch.exp(0.25 * rate),
        "loudness": 0.5 * draws.normal("speech/loudness"),
        "noise": difficulty * draws.uniform("speech/noise", low=0.5, high=1.5),
        "speaker": people[draws.choice("speech/speaker", len(cast))],
        "slop_speech": (SLOP * difficulty * draws.normal("speech/slop").abs()).clamp(max=0.75),
    }


def draw_cepstra(draws: Draws, y: Tensor, factors: dict[str, Tensor], difficulty: float) -> Tensor:
    """Speak digits.

    Args:
        draws: Random numbers of these samples.
        y: Digits, shape (B,), int64.
        factors: As from `draw_factors`.
        difficulty: Scale of the sloppiness of articulation.

    Returns:
        Cepstra, shape (B, 20, 13), float32.
    """
    device = y.device
    words = _words().to(device)
    partner = torch.tensor([PARTNER.get(digit, digit) for digit in range(10)], device=device)
    drift = factors["slop_speech"][:, None, None]
    knots = torch.lerp(words[y], words[partner[y]], drift)  # (B, 6, 4)
    sloppy = torch.tensor([0.032, 0.032, 0.032, 0.5, 0.5, 0.5], device=device)
    knots = knots + difficulty * sloppy[:, None] * draws.normal("speech/jitter", 6, 4)

    # A fast word is over early: it fills 70 % of the frames at rate 1, and silence follows.
    clock = (torch.arange(FRAMES, device=device) + 0.5) / FRAMES
    phase = clock * (factors["rate"] / 0.7)[:, None]  # (B, T), 1 = the end of the word
    position = 3 * phase.clamp(max=1.0)
    hat = (1 - (position[..., None] - torch.arange(4, device=device)).abs()).clamp(
        min=0
    )  # (B, T, 4)
    tracks = hat @ knots.transpose(1, 2)  # (B, T, 6)
    loud = tracks[..., 5] + factors["loudness"][:, None] - 30 * (phase - 1).clamp(min=0)

    cast = {name: values.to(device) for name, values in speakers().items()}
    voice = factors["speaker"]
    formants = tracks[..., :3] + (cast["shift"][voice, None] + cast["accent"][voice, y])[:, None]
    level = (
        torch.stack([tracks[..., 3], tracks[..., 3] - 0.7, tracks[..., 4] - 1.5], -1)
        + loud[..., None]
    )
    mel = _log_mel(formants, level, FLOOR + factors["noise"].log())
    mel = mel + cast["tilt"][voice, None, None] * (torch.linspace(-0.5, 0.5, BANDS, device=device))
    noise = 0.3 * factors["noise"][:, None, None] * draws.normal("speech/frames", FRAMES, CEPSTRA)
    return mel @ dct_matrix().to(device).T + noise


def _log_mel(formants: Tensor, level: Tensor, floor: Tensor) -> Tensor:
    """Log-energy of each band: three Gaussian resonances over a noise floor, added as energies.

    Args:
        formants: Centres on the mel axis, shape (B, T, 3).
        level: Log-energy at the centres, shape (B, T, 3).
        floor: Log-energy of the noise, shape (B,).

    Returns:
        Shape (B, T, 26).
    """
    band = torch.linspace(0, 1, BANDS, device=formants.device)
    energy = floor.exp()[:, None, None].expand(*formants.shape[:2], BANDS)
    for k, width in enumerate(BAND_WIDTH):
        distance = (band - formants[..., k, None]) / width
        energy = energy + torch.exp(level[..., k, None] - distance.square() / 2)
    return energy.log()


def pool(cepstra: Tensor, how: str) -> Tensor:
    """Cepstra of an utterance as one vector, or as they are.

    Args:
        cepstra: Shape (B, T, 13).
        how: "poster": each coefficient divided by its standard deviation over the frames, then
            averaged over them; "mean": averaged; "none": the sequence.

    Returns:
        Shape (B, 13), or (B, T, 13) for "none".

    Source:
        The poster's feature file (k-means with k = 1 is the mean); its standard deviation is the
        population's, as here.
    """
    if how == "none":
        return cepstra
    mean = cepstra.mean(1)
    return mean / cepstra.std(1, correction=0).clamp(min=1e-3) if how == "poster" else mean
