"""Draws the phantom films: a chest in body coordinates, three diseases, and two sex cues.

Reading order: `Films` (every parameter of every film, nothing random below it), `render` (the sum
of the layers), then the layers. Body coordinates (u, v) run from -1 to 1 over the film, u to the
right and v downwards; the side marker lives on the film, not on the body, and stays where it is.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, Int

Plane = Float[np.ndarray, "films height width"]
PerFilm = Float[np.ndarray, " films"]
PerSide = Float[np.ndarray, "films 2"]
Grain = Float[np.ndarray, "films cells cells"]

AIR_CONTRAST = 0.42
_LETTER_R = ("####.", "#####", "#..##", "#####", "####.", "##.##", "##.##")
_LETTER_L = ("##...", "##...", "##...", "##...", "##...", "#####", "#####")


@dataclass(frozen=True, slots=True, kw_only=True)
class Films:
    """Everything a film shows, one row a film; lengths in body units, brightness in pixel units.

    Per-side arrays hold the image-left lung first. A disease or cue that is absent has amount 0.
    """

    shift_u: PerFilm
    shift_v: PerFilm
    scale: PerFilm
    tilt: PerFilm  # radians
    build: PerFilm  # body width, 1 is average
    diaphragm: PerSide  # height of each dome
    heart: PerFilm  # heart size, 1 is average
    ribs: PerFilm  # brightness of the ribs
    rib_phase: PerFilm  # radians
    inflation: PerFilm  # how dark air is, 1 is average
    texture: Grain  # vessels, standard normal
    haze_at: PerSide  # height of a harmless haze in each lung
    haze: PerSide
    gain: PerFilm
    gamma: PerFilm
    effusion: PerSide  # opacity of the fluid, 0..1
    effusion_level: PerSide  # how far the fluid rises above the dome
    pneumonia: PerFilm  # opacity of the focus, 0..1
    pneumonia_u: PerFilm
    pneumonia_v: PerFilm
    pneumonia_radius: PerFilm
    edema: PerFilm  # opacity of the perihilar haze, 0..1
    edema_radius: PerFilm
    breast: PerFilm  # brightness of the breast shadow
    marker: PerFilm  # brightness of the side marker
    marker_side: Int[np.ndarray, " films"]  # 0: letter R, upper left; 1: letter L, upper right
    marker_u: PerFilm  # jitter
    marker_v: PerFilm

    def rows(self, start: int, stop: int) -> Films:
        """Return the films start..stop-1."""
        return Films(**{item.name: getattr(self, item.name)[start:stop] for item in fields(self)})

    def __len__(self) -> int:
        return int(self.scale.shape[0])


@dataclass(frozen=True, slots=True)
class Rendered:
    """Brightness before film noise, in [0, 1], and how much each disease and cue added to it."""

    brightness: Plane
    effusion: Plane
    pneumonia: Plane
    edema: Plane
    marker: Plane
    breast: Plane


def render(films: Films, size: int) -> Rendered:
    """Return the films drawn at size × size pixels, with the evidence of every disease and cue."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    x, y = axis[None, None, :], axis[None, :, None]
    u, v = _body_coordinates(films, x, y)
    away = np.abs(u)
    right = u > 0

    cage = _step(1 - np.abs((away - 0.38) / 0.29) ** 2.5 - np.abs((v - 0.13) / 0.66) ** 2.5, 0.12)
    dome = (
        _by_side(films.diaphragm, right)
        + 0.6 * (away - 0.32) ** 2
        + 1.6 * np.maximum(away - 0.36, 0) ** 2
    )
    heart = _step(1 - ((u - 0.1) / (0.26 * _up(films.heart))) ** 2 - ((v - 0.33) / 0.29) ** 2, 0.15)
    middle = _step(0.1 - away, 0.025)
    air = cage * _step(dome - v, 0.022) * (1 - 0.92 * heart) * (1 - 0.85 * middle)
    texture = _enlarge(films.texture, size)
    air *= _up(films.inflation) * (1 - 0.1 * texture)

    fluid_top = dome - _by_side(films.effusion_level, right) - 0.35 * (away - 0.32)
    fluid = _by_side(films.effusion, right) * _step(v - fluid_top, 0.035)
    focus = _up(films.pneumonia) * _blob(
        (u - _up(films.pneumonia_u)) / _up(films.pneumonia_radius),
        (v - _up(films.pneumonia_v)) / _up(films.pneumonia_radius),
    )
    spread = _up(films.edema_radius)
    wings = _up(films.edema) * _blob((away - 0.25) / (0.8 * spread), (v - 0.1) / (1.3 * spread))
    harmless = _by_side(films.haze, right) * _blob(
        (away - 0.36) / 0.3, (v - _by_side(films.haze_at, right)) / 0.3
    )
    left_of_air = (1 - fluid) * (1 - focus) * (1 - wings) * (1 - harmless)

    width = (0.19 + 0.67 * _step(v + 0.43, 0.09)) * _up(films.build)
    torso = _step(width - away, 0.02)
    thickness = np.sqrt(np.clip(1 - (away / (width + 0.02)) ** 2, 0, 1))
    bones = _bones(films, u, v, away, cage)
    breast = _up(films.breast) * torso * _blob((away - 0.56) / 0.22, (v - 0.5) / 0.2)
    marker = _marker(films, x, y)

    body = torso * (0.22 + 0.42 * thickness + bones - AIR_CONTRAST * air * left_of_air)
    exposed = _up(films.gain) * np.clip(body, 1e-4, None) ** _up(films.gamma)
    brightness = np.clip(0.035 + exposed + breast + marker, 0, 1)
    return Rendered(
        brightness=brightness,
        effusion=AIR_CONTRAST * air * fluid,
        pneumonia=AIR_CONTRAST * air * focus,
        edema=AIR_CONTRAST * air * wings,
        marker=marker,
        breast=breast,
    )


def _body_coordinates(films: Films, x: Plane, y: Plane) -> tuple[Plane, Plane]:
    cosine, sine = np.cos(films.tilt), np.sin(films.tilt)
    from_u, from_v = x - _up(films.shift_u), y - _up(films.shift_v)
    u = (_up(cosine) * from_u + _up(sine) * from_v) / _up(films.scale)
    v = (_up(cosine) * from_v - _up(sine) * from_u) / _up(films.scale)
    return u, v


def _bones(films: Films, u: Plane, v: Plane, away: Plane, cage: Plane) -> Plane:
    rib_course = v + 0.45 * (away - 0.15) ** 2 - 0.1 * away
    phase = np.float32(2 * np.pi / 0.19) * rib_course + _up(films.rib_phase)
    ribs = _up(films.ribs) * np.exp(2.5 * (np.cos(phase) - 1)) * (0.25 + 0.75 * cage)
    ribs *= _step(0.74 - away, 0.03) * _step(v + 0.48, 0.04) * _step(0.66 - v, 0.05)
    spine = (0.1 + 0.025 * np.cos(40 * v)) * np.exp(-((u / 0.075) ** 2))
    windpipe = -0.12 * np.exp(-((u / 0.05) ** 2)) * _step(-0.18 - v, 0.05)
    clavicle_line = -0.39 - 0.16 * (away - 0.1)
    clavicles = 0.1 * np.exp(-(((v - clavicle_line) / 0.025) ** 2)) * _step(away - 0.07, 0.02)
    hila = 0.07 * _blob((away - 0.17) / 0.08, (v - 0.08) / 0.14)
    total: Plane = ribs + spine + windpipe + clavicles * _step(0.6 - away, 0.03) + hila
    return total


def _marker(films: Films, x: Plane, y: Plane) -> Plane:
    """Return the letter's brightness: R on the upper left, L on the upper right of the film."""
    letters = np.stack([_letter(_LETTER_R), _letter(_LETTER_L)])
    rows, columns = letters.shape[1] - 2, letters.shape[2] - 2
    centre = np.where(films.marker_side == 0, -0.75, 0.75).astype(np.float32) + films.marker_u
    across = (x - _up(centre)) * (columns / 0.28) + (columns + 1) / 2
    down = (y - _up(films.marker_v) + 0.76) * (rows / 0.34) + (rows + 1) / 2
    column = np.clip(across, 0, columns + 0.999)[:, 0, :]
    row = np.clip(down, 0, rows + 0.999)[:, :, 0]
    chosen = letters[films.marker_side]
    along_rows = _interpolate(chosen, row)
    glyph = np.swapaxes(_interpolate(np.swapaxes(along_rows, 1, 2), column), 1, 2)
    bright: Plane = _up(films.marker) * glyph
    return bright


def _interpolate(table: Plane, position: Float[np.ndarray, "films points"]) -> Plane:
    """Return the rows of each film's table at fractional positions, linearly interpolated."""
    low = position.astype(np.intp)
    weight = (position - low)[:, :, None].astype(np.float32)
    film = np.arange(len(table))[:, None]
    blended: Plane = table[film, low] * (1 - weight) + table[film, low + 1] * weight
    return blended


def _letter(drawing: tuple[str, ...]) -> Float[np.ndarray, "rows columns"]:
    """Return the drawing as 0/1 with an empty margin, so that the letter fades out at its edge."""
    inked = np.array([[float(stroke == "#") for stroke in line] for line in drawing], np.float32)
    return np.pad(inked, 1)


def _enlarge(grain: Grain, size: int) -> Plane:
    cells = grain.shape[1]
    position = (np.arange(size) + 0.5) * (cells / size) - 0.5
    weights = np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells)[None, :]))
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    enlarged: Plane = weights @ grain @ weights.T
    return enlarged


def _by_side(values: PerSide, right: Plane) -> Plane:
    return np.where(right, values[:, 1, None, None], values[:, 0, None, None])


def _blob(u: Plane, v: Plane) -> Plane:
    blob: Plane = np.exp(-(u**2 + v**2))
    return blob


def _step(distance: Plane, softness: float) -> Plane:
    """Return a smooth step from 0 (negative distance) to 1 (positive)."""
    step: Plane = 0.5 * (1 + np.tanh(distance * np.float32(0.5 / softness)))
    return step


def _up(values: PerFilm) -> Plane:
    return values[:, None, None]
