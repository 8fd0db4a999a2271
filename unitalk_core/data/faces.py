"""Talking portraits drawn with signed distances: every edge is a formula, so any size is sharp.

Units: the shorter side of the picture is 2 wide, the middle is (0, 0), y points down. A close-up: the mouth
is some 24 of 64 pixels wide.
"""

# f frames · h, w pixel rows, columns
from __future__ import annotations

import copy
import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.captions import BACKGROUNDS, HAIR_COLOURS, HAIR_STYLES, PEOPLE, SKINS
from .visemes import OPEN, ROUND, TEETH, TONGUE, WIDTH

Colour = tuple[float, float, float]

SKIN_RGB: dict[str, Colour] = {
    "light": (0.98, 0.84, 0.74),
    "tan": (0.91, 0.71, 0.54),
    "brown": (0.71, 0.49, 0.34),
    "dark": (0.47, 0.31, 0.23),
}
HAIR_RGB: dict[str, Colour] = {
    "black": (0.13, 0.11, 0.14),
    "brown": (0.39, 0.24, 0.14),
    "blonde": (0.93, 0.76, 0.38),
    "red": (0.74, 0.27, 0.12),
    "grey": (0.58, 0.58, 0.61),
    "white": (0.93, 0.92, 0.90),
}
BACKGROUND_RGB: dict[str, Colour] = {
    "blue": (0.38, 0.60, 0.89),
    "green": (0.47, 0.74, 0.49),
    "yellow": (0.97, 0.85, 0.45),
    "pink": (0.97, 0.68, 0.77),
    "grey": (0.70, 0.72, 0.75),
    "purple": (0.61, 0.50, 0.84),
    "orange": (0.97, 0.66, 0.38),
    "teal": (0.30, 0.68, 0.68),
}
IRIS_RGB: tuple[Colour, ...] = (
    (0.30, 0.20, 0.12),
    (0.20, 0.42, 0.66),
    (0.27, 0.50, 0.30),
    (0.42, 0.32, 0.20),
)
SHIRT_RGB: tuple[Colour, ...] = (
    (0.86, 0.30, 0.28), (0.22, 0.34, 0.58), (0.96, 0.95, 0.92), (0.25, 0.52, 0.42), (0.32, 0.30, 0.36),
    (0.93, 0.72, 0.30),
)  # fmt: skip
WHITE: Colour = (0.98, 0.97, 0.95)
MOUTH_INSIDE: Colour = (0.22, 0.05, 0.07)
TONGUE_RGB: Colour = (0.85, 0.40, 0.42)
FRAME_RGB: Colour = (0.12, 0.12, 0.16)

SHIFT_X, SHIFT_Y, TILT, LID, BROW, SLANT, SMILE = range(7)  # of a pose


@dataclass(frozen=True, kw_only=True)
class Look:
    """One face. The first six fields are what a caption says; the rest are differences between people."""

    person: str
    skin: str
    hair_style: str
    hair_colour: str
    glasses: bool
    background: str
    iris: int
    shirt: int
    face_width: float
    face_length: float
    eye_size: float
    eye_gap: float
    brow_bend: float
    mouth_width: float
    lip: float
    smile: float
    parting: float
    warmth: float  # how far the skin leans to red

    @property
    def caption(self) -> str:
        """Such as "a woman with light skin, short red hair and glasses, blue background"."""
        bald = self.hair_style == "bald"
        hair = "" if bald else f", {self._hair()}"
        glasses = " and glasses" if self.glasses else ""
        who = f"a bald {self.person}" if bald else f"a {self.person}"
        return f"{who} with {self.skin} skin{hair}{glasses}, {self.background} background"

    def _hair(self) -> str:
        if self.hair_style in ("bun", "ponytail"):
            return f"{self.hair_colour} hair in a {self.hair_style}"
        return f"{self.hair_style} {self.hair_colour} hair"


def draw_look(rng: random.Random, person: str) -> Look:
    """A face by chance. person: one of captions.PEOPLE."""
    if person not in PEOPLE:
        raise ValueError(f"person must be one of {', '.join(PEOPLE)}, got {person!r}")
    woman = person == "woman"
    styles = [s for s in HAIR_STYLES if s not in (("bald",) if woman else ("bun", "ponytail"))]
    return Look(
        person=person,
        skin=rng.choice(SKINS),
        hair_style=rng.choice(styles),
        hair_colour=rng.choice(HAIR_COLOURS),
        glasses=rng.random() < 0.3,
        background=rng.choice(BACKGROUNDS),
        iris=rng.randrange(len(IRIS_RGB)),
        shirt=rng.randrange(len(SHIRT_RGB)),
        face_width=rng.uniform(0.64, 0.71) if woman else rng.uniform(0.68, 0.75),
        face_length=rng.uniform(0.82, 0.89),
        eye_size=rng.uniform(1.1, 1.25) if woman else rng.uniform(0.96, 1.12),
        eye_gap=rng.uniform(0.28, 0.32),
        brow_bend=rng.uniform(0.3, 1.3),
        mouth_width=rng.uniform(0.31, 0.36),
        lip=rng.uniform(0.055, 0.07) if woman else rng.uniform(0.040, 0.052),
        smile=rng.uniform(0.0, 0.035),
        parting=rng.choice((-1, 1)) * rng.uniform(0.05, 0.3),
        warmth=rng.uniform(-1, 1),
    )


# ---- shapes: distances in picture units, coverages in 0..1 -------------------------------------------------


def ellipse(x: Tensor, y: Tensor, rx: float, ry: float) -> Tensor:
    """Signed distance to an ellipse around (0, 0), first order: exact at the edge."""
    near = torch.sqrt((x / rx) ** 2 + (y / ry) ** 2)
    slope = torch.sqrt((x / rx**2) ** 2 + (y / ry**2) ** 2).clamp_min(1e-6)
    return near * (near - 1) / slope


def capsule(
    x: Tensor, y: Tensor, start: tuple[float, float], end: tuple[float, float], radius: float
) -> Tensor:
    """Signed distance to a thick line with round ends."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = (((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy)).clamp(0, 1)
    return torch.sqrt((x - start[0] - along * dx) ** 2 + (y - start[1] - along * dy) ** 2) - radius


def smooth_step(x: Tensor, low: float, high: float) -> Tensor:
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def cover(distance: Tensor, pixel: float) -> Tensor:
    """Share of a pixel inside a shape."""
    return (0.5 - distance / pixel).clamp(0, 1)


def lens(x: Tensor, y: Tensor, half_width: Tensor, top: Tensor, bottom: Tensor, pixel: float) -> Tensor:
    """Coverage of the stretch between two arcs over the line y = 0 that meet at the corners.

    Each pixel counts the part of its height that lies inside, so a shut lens covers nothing: no hairline.
    """
    u = (x / half_width).clamp(-1, 1)
    arc = torch.sqrt(1 - u * u)
    steep = torch.maximum(top.abs(), bottom.abs()) * u.abs() / (half_width * arc.clamp_min(0.15))
    height = pixel * torch.sqrt(1 + steep * steep)
    upper = torch.maximum(y - height / 2, top * arc)
    lower = torch.minimum(y + height / 2, bottom * arc)
    return ((lower - upper) / height).clamp(0, 1)


class Canvas:
    """Frames being painted, back to front. x, y: (f, h, w) head coordinates; still_x, still_y: (1, h, w)."""

    def __init__(self, pose: Tensor, height: int, width: int) -> None:
        self.pixel = 2 / min(height, width)
        rows = (torch.arange(height) + 0.5 - height / 2) * self.pixel
        columns = (torch.arange(width) + 0.5 - width / 2) * self.pixel
        self.still_x = columns.expand(1, height, width)
        self.still_y = rows[:, None].expand(1, height, width)
        shift_x, shift_y, tilt = (pose[:, i, None, None] for i in (SHIFT_X, SHIFT_Y, TILT))
        x, y = self.still_x - shift_x, self.still_y - shift_y
        self.x = torch.cos(tilt) * x + torch.sin(tilt) * y
        self.y = torch.cos(tilt) * y - torch.sin(tilt) * x
        self.image = torch.zeros(len(pose), 3, height, width)

    def window(self, left: float, top: float, right: float, bottom: float) -> Canvas:
        """The part of this canvas between four picture coordinates: what is painted there appears here."""
        height, width = self.x.shape[1:]
        rows = [min(max(round(edge / self.pixel + height / 2), 0), height) for edge in (top, bottom)]
        columns = [min(max(round(edge / self.pixel + width / 2), 0), width) for edge in (left, right)]
        part = copy.copy(self)
        for name in ("x", "y", "still_x", "still_y", "image"):
            setattr(part, name, getattr(self, name)[..., slice(*rows), slice(*columns)])
        return part

    def paint(self, coverage: Tensor, colour: Colour) -> None:
        """Lay a colour over the frames. coverage: (f or 1, h, w) in 0..1."""
        for channel, value in enumerate(colour):
            self.image[:, channel].lerp_(torch.full((), value), coverage.expand_as(self.image[:, channel]))

    def fill(self, distance: Tensor, colour: Colour, strength: float = 1.0) -> None:
        """Paint the inside of a distance field."""
        self.paint(cover(distance, self.pixel) * strength, colour)


def shade(colour: Colour, factor: float) -> Colour:
    """Darker below 1; above 1 nearer to white."""
    if factor <= 1:
        return tuple(c * factor for c in colour)
    return tuple(1 - (1 - c) * (2 - factor) for c in colour)


# ---- the portrait, part by part ----------------------------------------------------------------------------


def _skin(look: Look) -> Colour:
    r, g, b = SKIN_RGB[look.skin]
    return (r + 0.015 * look.warmth, g - 0.012 * look.warmth, b - 0.02 * look.warmth)


def _paint_background(canvas: Canvas, look: Look) -> None:
    colour = BACKGROUND_RGB[look.background]
    x, y = canvas.still_x, canvas.still_y
    canvas.paint(torch.ones(1, 1, 1), shade(colour, 0.93))
    canvas.paint((1 - torch.sqrt(x * x + (y + 0.2) ** 2) / 1.3).clamp(0, 1), shade(colour, 1.3))


def _back_hair(canvas: Canvas, look: Look) -> None:
    x, y, colour = canvas.x, canvas.y, shade(HAIR_RGB[look.hair_colour], 0.86)
    width = look.face_width
    if look.hair_style not in ("bald", "curly"):
        canvas.fill(torch.maximum(ellipse(x, y + 0.08, width + 0.06, 0.84), y + 0.10), colour)
    if look.hair_style == "long":
        top = ellipse(x, y + 0.12, width + 0.20, 0.80)
        fall = torch.maximum(x.abs() - (width + 0.18 + 0.03 * torch.sin(7 * y)), -y - 0.12)
        canvas.fill(torch.minimum(top, fall), colour)
    elif look.hair_style == "curly":
        canvas.fill(_curls(x, y + 0.10, width + 0.15, 0.78), colour)
    elif look.hair_style == "bun":
        side = 1.0 if look.parting > 0 else -1.0
        canvas.fill(ellipse(side * x - 0.46, y + 0.78, 0.25, 0.23), colour)
    elif look.hair_style == "ponytail":
        side = 1.0 if look.parting > 0 else -1.0
        tail = capsule(side * x + 0.25 * (y - 0.1) ** 2, y, (width + 0.16, -0.45), (width + 0.18, 0.75), 0.17)
        canvas.fill(tail, colour)


def _curls(x: Tensor, y: Tensor, rx: float, ry: float, lobes: int = 13) -> Tensor:
    """An ellipse with a bumpy edge."""
    angle = torch.atan2(y / ry, x / rx)
    return ellipse(x, y, rx, ry) - 0.055 * torch.cos(lobes * angle).abs() - 0.02


def _paint_body(canvas: Canvas, look: Look) -> None:
    x, y, skin = canvas.x, canvas.y, _skin(look)
    canvas.fill(ellipse(canvas.still_x, canvas.still_y - 1.32, 0.95, 0.50), SHIRT_RGB[look.shirt])
    neck = torch.maximum(x.abs() - 0.27, 0.5 - y)
    canvas.fill(torch.maximum(neck, canvas.still_y - 1.02), shade(skin, 0.80))


def _paint_head(canvas: Canvas, look: Look, jaw: Tensor) -> None:
    """jaw: (f, 1, 1), how far the chin sinks."""
    x, y, skin, width = canvas.x, canvas.y, _skin(look), look.face_width
    for side in (-1, 1):
        middle = side * (width + 0.02)
        beside = canvas.window(middle - 0.2, -0.25, middle + 0.2, 0.3)
        ear_x, ear_y = beside.x - middle, beside.y - 0.03
        beside.fill(ellipse(ear_x, ear_y, 0.10, 0.15), shade(skin, 0.93))
        beside.fill(ellipse(ear_x - side * 0.01, ear_y, 0.05, 0.09), shade(skin, 0.80))
    face = _face(x, y, look, jaw)
    canvas.fill(face, skin)
    light = smooth_step(x + 0.35 * y, 0.1, 0.85) * cover(face, canvas.pixel)
    canvas.paint(0.35 * light, shade(skin, 0.80))
    blush = (0.96, 0.42, 0.42)
    for side in (-1, 1):
        cheek = canvas.window(side * 0.42 - 0.3, -0.1, side * 0.42 + 0.3, 0.55)
        spot = torch.sqrt((cheek.x - side * 0.42) ** 2 + ((cheek.y - 0.22) * 1.25) ** 2)
        cheek.paint((1 - spot / 0.19).clamp(0, 1) * (0.42 if look.person == "woman" else 0.25), blush)
    if look.hair_style == "bald":
        canvas.paint(cover(ellipse(x + 0.22, y + 0.58, 0.16, 0.07), 3 * canvas.pixel) * 0.5, shade(skin, 1.6))


def _face(x: Tensor, y: Tensor, look: Look, jaw: Tensor) -> Tensor:
    """Signed distance to the head: a cheekier ellipse above, a chin that follows the jaw below."""
    below = y.clamp_min(0) / (1 + jaw)
    narrow = 1 + 0.16 * smooth_step(below, 0.25, 0.95)
    return ellipse(x * narrow, torch.where(y > 0, below, y), look.face_width, look.face_length)


def _paint_nose(canvas: Canvas, look: Look) -> None:
    x, y, skin = canvas.x, canvas.y, _skin(look)
    bend = y - 0.185 + 1.6 * x * x
    canvas.fill(capsule(x, bend, (-0.06, 0.0), (0.06, 0.0), 0.022), shade(skin, 0.70))
    canvas.paint(cover(ellipse(x, y - 0.12, 0.035, 0.05), 3 * canvas.pixel) * 0.5, shade(skin, 1.35))


def _paint_eyes(canvas: Canvas, look: Look, lid: Tensor, brow: Tensor, slant: Tensor) -> None:
    """All (f, 1, 1). lid: 1 open .. 0 shut; brow: how far the brows rise; slant: inner ends down."""
    size, pixel = look.eye_size, canvas.pixel
    wide, tall = torch.tensor(0.125 * size), 0.135 * size
    dark = shade(HAIR_RGB["brown"], 0.5)
    for side in (-1, 1):
        x, y = canvas.x - side * look.eye_gap, canvas.y + 0.10
        top, bottom = -tall * (1.85 * lid - 0.85), torch.tensor(0.85 * tall)
        opening = lens(x, y, wide, top, bottom, pixel)
        canvas.paint(opening, WHITE)
        iris_x = x + side * 0.012
        canvas.paint(
            opening * cover(ellipse(iris_x, y, 0.088 * size, 0.098 * size), pixel), IRIS_RGB[look.iris]
        )
        canvas.paint(
            opening * cover(ellipse(iris_x, y, 0.050 * size, 0.056 * size), pixel), (0.05, 0.04, 0.05)
        )
        glint = cover(ellipse(iris_x + 0.030, y + 0.040, 0.030 * size, 0.030 * size), pixel)
        canvas.paint(opening * glint, (1.0, 1.0, 1.0))
        lash = lens(x, y, wide * 1.12, top - 0.040, top, pixel) * smooth_step(
            -x.abs(), -1.1 * float(wide), -0.1
        )
        canvas.paint(lash, dark)
        arch = y + 0.235 * size + 0.035 * brow - 2 * look.brow_bend * (x - side * 0.02) ** 2
        arch = arch + 0.45 * slant * side * x
        colour = HAIR_RGB[look.hair_colour] if look.hair_style != "bald" else HAIR_RGB["brown"]
        thick = 0.026 if look.person == "woman" else 0.036
        canvas.fill(capsule(x, arch, (-0.11, 0.0), (0.11, 0.0), thick), shade(colour, 0.72))


def _paint_mouth(canvas: Canvas, look: Look, mouth: Tensor, smile: Tensor) -> None:
    """mouth: (f, 5), see visemes; smile: (f, 1, 1), corners up."""
    opening, wide, rounding, teeth, tongue = (
        mouth[:, i, None, None] for i in (OPEN, WIDTH, ROUND, TEETH, TONGUE)
    )
    x, y, pixel = canvas.x, canvas.y - MOUTH_Y, canvas.pixel
    half = look.mouth_width * (1 + 0.20 * wide) * (1 - 0.42 * rounding) * (1 - 0.10 * opening)
    y = y + (look.smile + smile + 0.02 * wide) * ((x / half) ** 2 - 0.5)
    height = MOUTH_HEIGHT * opening * (1 + 0.15 * rounding)
    top, bottom = -0.38 * height, 0.62 * height
    thick = look.lip * (1 + 0.45 * rounding)
    lips = _lip_colour(look)
    bow = 0.35 * thick * (torch.exp(-((x / 0.05) ** 2)) - 0.3)
    canvas.paint(lens(x, y - bow, half + thick, top - thick, torch.zeros(()), pixel), shade(lips, 0.90))
    canvas.paint(lens(x, y, half + thick, torch.zeros(()), bottom + 1.35 * thick, pixel), lips)
    seam = lens(x, y, half, torch.tensor(-0.012), torch.tensor(0.012), pixel) * (1 - 8 * opening).clamp(0, 1)
    canvas.paint(seam, shade(lips, 0.55))
    inside = lens(x, y, half, top, bottom, pixel)
    canvas.paint(inside, MOUTH_INSIDE)
    floor = bottom - (0.30 + 0.55 * tongue) * height
    body = cover((floor + 1.6 * (x / half) ** 2 * height - y) / (1 + 0.5), pixel)
    canvas.paint(inside * body * (0.25 + 0.75 * tongue).clamp(0, 1), TONGUE_RGB)
    edge = top * torch.sqrt((1 - (x / half) ** 2).clamp_min(0)) + 0.085 * teeth
    canvas.paint(inside * cover(y - edge, pixel) * (4 * teeth).clamp(0, 1), WHITE)


MOUTH_Y = 0.48
MOUTH_HEIGHT = 0.48  # of a mouth wide open


def _lip_colour(look: Look) -> Colour:
    r, g, b = _skin(look)
    red = (0.80, 0.20, 0.27) if look.person == "woman" else (0.66, 0.26, 0.25)
    mix = 0.8 if look.person == "woman" else 0.7
    return (r + (red[0] - r) * mix, g + (red[1] - g) * mix, b + (red[2] - b) * mix)


def _hairline(x: Tensor, look: Look) -> Tensor:
    """y of the front hair's lower edge: (f, h, w)."""
    across = x.abs() / look.face_width
    style, parted = look.hair_style, x - look.parting
    fringe = -0.62 + 0.55 * parted**2 + 0.10 * parted.abs()
    if style == "long":
        return fringe + 2.0 * smooth_step(across, 0.80, 1.02)
    side = 0.42 * smooth_step(across, 0.80, 1.0)
    if style in ("bun", "ponytail"):
        return -0.54 + 0.10 * torch.cos(3 * parted) + side
    if style == "curly":
        return -0.48 - 0.05 * torch.cos(17 * x).abs() + side
    if style == "spiky":
        saw = (x * 3.4 + 10.25).frac()
        return -0.54 + 0.20 * (0.5 - (saw - 0.5).abs()) + side
    return (fringe + 0.04 + side).clamp_max(-0.06)


def _front_hair(canvas: Canvas, look: Look) -> None:
    if look.hair_style == "bald":
        return
    x, y, colour = canvas.x, canvas.y, HAIR_RGB[look.hair_colour]
    width = look.face_width + (0.13 if look.hair_style == "long" else 0.06)
    if look.hair_style == "curly":
        cap = _curls(x, y + 0.10, width + 0.06, 0.80)
    elif look.hair_style == "spiky":
        wave = (torch.atan2(x, -y) * 2.2 + 10.1).frac()
        cap = ellipse(x, y + 0.06, width, 0.83) - 0.14 * (1 - (2 * wave - 1).abs()) * smooth_step(
            -y, 0.2, 0.7
        )
    else:
        cap = ellipse(x, y + 0.08, width, 0.84)
        if look.hair_style == "long":
            cap = torch.minimum(cap, torch.maximum(x.abs() - width, -y - 0.08))
    shape = torch.maximum(cap, y - _hairline(x, look))
    canvas.fill(shape, colour)
    shine = (1 - ((torch.sqrt(x * x * 0.8 + (y + 0.05) ** 2) - 0.70) / 0.055) ** 2).clamp(0, 1)
    canvas.paint(
        cover(shape + 0.03, canvas.pixel) * shine * smooth_step(-x, -0.15, 0.5) * 0.4, shade(colour, 1.35)
    )


def _paint_glasses(canvas: Canvas, look: Look) -> None:
    for side in (-1, 1):
        x, y = canvas.x - side * look.eye_gap, canvas.y + 0.085
        rim = ellipse(x, y, 0.215, 0.205)
        canvas.fill(rim, (0.85, 0.93, 1.0), 0.14)
        canvas.fill(rim.abs() - 0.018, FRAME_RGB)
        arm = capsule(x, y, (side * 0.20, -0.02), (side * (look.face_width - look.eye_gap), -0.05), 0.014)
        canvas.fill(arm, FRAME_RGB)
    bridge = canvas.y + 0.11 - 1.5 * canvas.x**2
    canvas.fill(capsule(canvas.x, bridge, (-0.07, 0.0), (0.07, 0.0), 0.016), FRAME_RGB)


def render(look: Look, mouth: Tensor, pose: Tensor, height: int, width: int) -> Tensor:
    """(f, h, w, 3) uint8 frames.

    mouth: (f, 5) open, width, round, teeth, tongue;
    pose: (f, 7) shift x, shift y, tilt (radians), lid (1 open), brow (up), slant (inner ends down), smile.
    """
    if len(mouth) != len(pose):
        raise ValueError(f"mouth and pose need one row per frame, got {len(mouth)} and {len(pose)} rows")
    blocks = [
        _render(look, m, p, height, width) for m, p in zip(mouth.split(16), pose.split(16), strict=True)
    ]
    return torch.cat(blocks)  # sixteen frames at a time stay in the cache


def _render(look: Look, mouth: Tensor, pose: Tensor, height: int, width: int) -> Tensor:
    canvas = Canvas(pose, height, width)
    lid, brow, slant, smile = (pose[:, i, None, None] for i in (LID, BROW, SLANT, SMILE))
    _paint_background(canvas, look)
    _back_hair(canvas, look)
    _paint_body(canvas, look)
    _paint_head(canvas, look, 0.05 * mouth[:, OPEN, None, None])
    _paint_nose(canvas.window(-0.25, -0.05, 0.25, 0.35), look)
    _paint_eyes(canvas.window(-0.65, -0.60, 0.65, 0.25), look, lid, brow, slant)
    _paint_mouth(canvas.window(-0.65, 0.05, 0.65, 1.0), look, mouth, smile)
    _front_hair(canvas.window(-1.2, -1.2, 1.2, 1.2 if look.hair_style == "long" else 0.15), look)
    if look.glasses:
        _paint_glasses(canvas.window(-0.9, -0.4, 0.9, 0.25), look)
    return (canvas.image.permute(0, 2, 3, 1) * 255 + 0.5).to(torch.uint8)


def mouth_box(look: Look, pose: Tensor, height: int, width: int) -> Tensor:
    """(f, 4) left, top, right, bottom in pixels: the area a mouth of this face can fill, lips included."""
    scale = min(height, width) / 2
    tilt = pose[:, TILT]
    centre_x = pose[:, SHIFT_X] - MOUTH_Y * torch.sin(tilt)
    centre_y = pose[:, SHIFT_Y] + MOUTH_Y * torch.cos(tilt)
    reach = look.mouth_width * 1.2 + look.lip
    edges = (
        centre_x - reach,
        centre_y - 0.21 - look.lip,
        centre_x + reach,
        centre_y + 0.34 + 1.35 * look.lip,
    )
    middle = (width / 2, height / 2, width / 2, height / 2)
    return torch.stack([edge * scale + half for edge, half in zip(edges, middle, strict=True)], dim=1)


def still_pose(frames: int) -> Tensor:
    """(f, 7) a head that looks straight ahead with open eyes."""
    pose = torch.zeros(frames, 7)
    pose[:, LID] = 1
    return pose


def sway(rng: random.Random, times: Tensor) -> Tensor:
    """(f, 7) pose of a living head at `times` (f,) seconds: slow drift, tilt, and blinks; brows at rest."""
    pose = still_pose(len(times))
    for i, reach in ((SHIFT_X, 0.03), (SHIFT_Y, 0.022), (TILT, 0.035)):
        for _ in range(2):
            hertz, phase = rng.uniform(0.12, 0.55), rng.uniform(0, 2 * math.pi)
            pose[:, i] += 0.5 * reach * rng.uniform(0.4, 1) * torch.sin(2 * math.pi * hertz * times + phase)
    moment = rng.uniform(0.2, 3.0)
    while moment < float(times[-1]):
        shut = (1 - (times - moment).abs() / 0.10).clamp(0, 1)
        pose[:, LID] = torch.minimum(pose[:, LID], 1 - smooth_step(shut, 0.0, 0.8))
        moment += rng.uniform(1.2, 4.0)
    return pose
