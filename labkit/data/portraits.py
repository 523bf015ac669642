"""How a latent sounds and looks: log-mel pictures and drawn faces, made from numbers.

The pictures of the procedural half of `labkit.data.faces`. In the sound each latent owns a few bands and
bends their loudness over time; in the face each owns a trait, as the mouth's opening, and a face is
eleven shapes with soft edges. Everything is drawn for a whole batch at once.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from labkit.data.draws import Draws

BANDS, FRAMES = 40, 64  # of the sound's picture
HEIGHT, WIDTH = 32, 64  # of the face's
SPEAKER = 4  # numbers that tell how a voice and a room sound

SHARED = (
    "mouth",
    "brows",
    "eyes",
    "smile",
    "tilt",
    "brow height",
)  # how the shared latents are seen
FACE_ONLY = ("hair", "light", "background", "shirt")  # and those that only the face shows


def draw_nuisances(draws: Draws) -> dict[str, Tensor]:
    """Draw what sound and face show besides latents: name -> shape (B,) or (B, k)."""
    return {
        "speaker": draws.normal("speaker", SPEAKER),
        "start": draws.uniform("start", 1, high=0.1)[
            :, 0
        ],  # of the sound, as a share of the picture
        "syllables": draws.uniform("syllables", 1, low=3.0, high=6.0)[:, 0],  # a picture
        "rhythm": draws.uniform("rhythm", 1, high=2 * math.pi)[:, 0],  # phase of the syllables
        "head_px": 0.4 * draws.normal("head", 2),  # to the right, down
        "skin": draws.uniform("skin", 1)[:, 0],  # 0 light .. 1 dark
        "texture": draws.normal("texture", 2) / 4,  # waves of the background, in radians a pixel
        "texture_phase": draws.uniform("texture phase", 1, high=2 * math.pi)[:, 0],
    }


# Sound ---------------------------------------------------------------------------------------------

LOUDNESS, PITCH = (1.0, 1.0, 1.0, 1.0), (-1.0, -1.0, 1.0, 1.0)  # over the bands of a shared latent
HARMONICS, TIMBRE = (1.0, -1.0, 1.0, -1.0), (1.0, -1.0, -1.0, 1.0)  # of an audio-only one


def band_owners(shared: int, audio_only: int) -> list[int]:
    """Latent that owns each of the 40 bands: shared ones first, then audio-only ones; -1 = none.

    A latent has four neighbouring bands, or two where there are more than eight latents; shared and
    audio-only ones take turns, and nuisance bands lie between them.
    """
    order = [latent for turn in range(max(shared, audio_only)) for latent, there in
             ((turn, turn < shared), (shared + turn, turn < audio_only)) if there]  # fmt: skip
    width = 4 if len(order) <= 8 else 2
    spare = BANDS - width * len(order)
    owners: list[int] = []
    for place, latent in enumerate([*order, -1]):
        gap = spare * (place + 1) // (len(order) + 1) - spare * place // (len(order) + 1)
        owners += [-1] * gap + ([latent] * width if latent >= 0 else [])
    return owners


@lru_cache(maxsize=64)
def _patterns(shared: int, audio_only: int) -> Tensor:
    """What one unit of each latent, then of each number of the speaker, adds: (K + 4, 40, 64)."""
    owners = torch.tensor(band_owners(shared, audio_only))
    clock = (torch.arange(FRAMES) + 0.5) / FRAMES
    waves = torch.cos(math.pi * torch.arange(4)[:, None] * clock)
    waves = waves / waves.square().mean(1, keepdim=True).sqrt()  # (4, T): level, fall, dip, ...
    patterns = torch.zeros(shared + audio_only + SPEAKER, BANDS, FRAMES)
    for latent in range(shared + audio_only):
        turn = latent if latent < shared else latent - shared
        signs = ((LOUDNESS, PITCH) if latent < shared else (HARMONICS, TIMBRE))[turn % 2]
        own = (owners == latent).nonzero()[:, 0]
        weights = torch.tensor(signs)[:: 4 // len(own)]
        # A level's pitch does not move: slopes of pitch begin with the wave that falls.
        wave = waves[turn // 2 + (turn % 2 if latent < shared else 0)]
        patterns[latent, own] = 0.13 * weights[:, None] * wave
    spare = (owners < 0).nonzero()[:, 0]
    for number in range(SPEAKER):
        over = torch.cos(math.pi * (number + 1) * (torch.arange(len(spare)) + 0.5) / len(spare))
        patterns[shared + audio_only + number, spare] = 0.18 * over[:, None] * waves[number % 2]
    return patterns


def draw_sounds(shared: Tensor, audio_only: Tensor, nuisances: dict[str, Tensor]) -> Tensor:
    """Draw sounds as log-mel pictures.

    Args:
        shared: Shared latents, shape (B, 1 to 6).
        audio_only: Audio-only latents, shape (B, 0 to 8).
        nuisances: As from `draw_nuisances`.

    Returns:
        Shape (B, 40, 64), about in [0, 1].
    """
    numbers = torch.cat([shared, audio_only, nuisances["speaker"]], 1)
    patterns = _patterns(shared.shape[1], audio_only.shape[1]).to(numbers.device)
    level = 0.42 + (numbers @ patterns.flatten(1)).view(-1, BANDS, FRAMES)
    clock = (torch.arange(FRAMES, device=numbers.device) + 0.5) / FRAMES
    start, rate, phase = (nuisances[name][:, None] for name in ("start", "syllables", "rhythm"))
    loud = ((clock - start) * 15).clamp(0, 1) * ((1 - clock) * 12).clamp(0, 1)  # (B, T)
    loud = loud * (0.88 + 0.12 * torch.cos(2 * math.pi * rate * clock + phase))
    return 0.08 + loud[:, None] * level


# Faces ---------------------------------------------------------------------------------------------

Colour = tuple[float, float, float]
PALETTE: dict[str, tuple[Colour, Colour]] = {  # the two ends that a latent mixes
    "skin": ((0.98, 0.81, 0.67), (0.62, 0.43, 0.30)),
    "hair": ((0.10, 0.07, 0.06), (0.92, 0.72, 0.32)),
    "background": ((0.16, 0.42, 0.66), (0.72, 0.58, 0.38)),
    "shirt": ((0.10, 0.45, 0.33), (0.60, 0.28, 0.62)),
}


def draw_faces(shared: Tensor, face_only: Tensor, nuisances: dict[str, Tensor]) -> Tensor:
    """Draw faces: shapes with soft edges, the nearest first, each letting through what it leaves.

    A trait without a latent is as at 0.

    Args:
        shared: Shared latents, shape (B, 1 to 6), seen as `SHARED` in this order.
        face_only: Face-only latents, shape (B, 0 to 4), seen as `FACE_ONLY`.
        nuisances: As from `draw_nuisances`.

    Returns:
        Red, green and blue, shape (B, 3, 32, 64), about in [0, 1].
    """
    hair, light, background, shirt = _columns(face_only, 4)
    x = torch.arange(WIDTH, device=shared.device).repeat(HEIGHT) - (WIDTH - 1) / 2  # (P,)
    y = torch.arange(HEIGHT, device=shared.device).repeat_interleave(WIDTH).float()
    skin = _mix("skin", nuisances["skin"][:, None])
    hair, shirt = _mix("hair", 0.5 + hair / 5), _mix("shirt", 0.5 + shirt / 5)
    wave = torch.sin(
        nuisances["texture"] @ torch.stack([x, y]) + nuisances["texture_phase"][:, None]
    )
    white, dark = torch.full_like(skin, 0.96), torch.full_like(skin, 0.08)
    lips = skin * skin.new_tensor([0.78, 0.36, 0.36])
    colours = {
        "pupil": dark, "white": white, "brow": hair * 0.35, "inside": lips * 0.3, "lips": lips,
        "nose": skin * 0.8, "fringe": hair, "head": skin, "hair": hair * 0.85, "shirt": shirt,
        "neck": skin * 0.85, "background": _mix("background", 0.5 + background / 5),
    }  # fmt: skip
    through, seen = torch.ones_like(wave), []
    for distance in _shapes(x, y, shared, nuisances["head_px"]):
        cover = (distance + 0.5).clamp_(0, 1)  # of a pixel, by the distance of its middle inside
        seen.append(through * cover)
        through = through - seen[-1]
    seen.append(through * (1 + 0.12 * wave))
    image = torch.stack(list(colours.values()), 2) @ torch.stack(seen, 1)  # (B, 3, P)
    return (image * (1 + 0.15 * light * x / 32)[:, None]).view(-1, 3, HEIGHT, WIDTH)


def _shapes(x: Tensor, y: Tensor, shared: Tensor, head: Tensor) -> list[Tensor]:
    """How deep each pixel lies inside each shape, in pixels, nearest shape first: 11 of (B, P)."""
    mouth, brows, eyes, smile, tilt, height = _columns(shared, 6)
    x, y = x - head[:, :1], y - 14.5 - head[:, 1:]  # from the middle of the head
    cos, sin = (0.11 * tilt).cos(), (0.11 * tilt).sin()
    u, v = cos * x + sin * y, cos * y - sin * x  # in the tilted head
    side = u.abs() - 4.5  # from the middle of the nearer eye, outwards
    eye = _ellipse(side, v + 1.5, 2.7, (1.6 + 0.6 * eyes).clamp(min=0.35))
    brow = (v + 5.9 + 0.7 * height + 0.36 * brows * side).abs()
    across = (u / 4.6).square()
    middle = (v - 6.6 + 1.2 * smile * (across - 0.4)).abs()
    opening = (1.1 + 0.75 * mouth).clamp(min=0) * (1 - across)
    edge = 5.0 - u.abs()
    face = _ellipse(u, v, 9.6, 12.0)
    return [
        torch.minimum(_ellipse(side, v + 1.4, 1.2, 1.4), eye),
        eye,
        torch.minimum(0.85 - brow, 3.1 - side.abs()),
        torch.minimum(opening - middle - 0.2, edge),
        torch.minimum(opening - middle + 0.75, edge),
        _ellipse(u, v - 2.6, 1.5, 0.8),
        torch.minimum(0.035 * u.square() - 8.6 - v, face),
        face,
        _ellipse(u, v + 1.2, 11.3, 12.6),
        _ellipse(x, y - 20.5, 19.0, 8.5),
        torch.minimum(3.6 - x.abs(), y - 6),
    ]


def _ellipse(x: Tensor, y: Tensor, wide: float, high: Tensor | float) -> Tensor:
    """Depth inside an ellipse about the origin, exact on its short axis."""
    short = high.clamp(max=wide) if isinstance(high, Tensor) else min(wide, high)
    return (1 - ((x / wide).square() + (y / high).square()).sqrt()) * short


def _columns(latents: Tensor, count: int) -> tuple[Tensor, ...]:
    """Columns (B, 1) of latents, bent so that none leaves the face; 0 for those that are not there."""
    bent = 2.5 * torch.tanh(latents / 2.5)
    return torch.nn.functional.pad(bent, (0, count - latents.shape[1])).split(1, 1)


def _mix(name: str, share: Tensor) -> Tensor:
    """Colour (B, 3) at this share (B, 1) of the way between the ends of a palette."""
    one, other = (share.new_tensor(colour) for colour in PALETTE[name])
    return torch.lerp(one, other, share)
