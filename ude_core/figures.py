"""Pictures of an edit, drawn with Pillow alone: the noise map and original | edited | noise.

Blue takes light away, red adds it; white is no change. The same noise gives the same bytes.
"""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from ude_core.types import Noise

_PANEL = 256
_BAR = 14
_TEXT = 18
_GAP = 10
_BLUE, _WHITE, _RED = (33, 102, 172), (247, 247, 247), (178, 24, 43)
_INK = (40, 40, 40)


def noise_picture(noise: Noise) -> Image.Image:
    """Return the noise alone, one pixel a pixel, as a diverging map over ±max|ε|."""
    values = noise[0].detach().cpu().numpy()
    return Image.fromarray(_diverging(values, float(np.abs(values).max())))


def noise_map(noise: Noise) -> Image.Image:
    """Return the noise as a diverging map over ±max|ε| (pixel units), with a labelled color bar."""
    values = noise[0].detach().cpu().numpy()
    limit = float(np.abs(values).max())
    picture = _canvas(1)
    _paste(picture, 0, "noise", Image.fromarray(_diverging(values, limit)))
    _bar(picture, 0, limit)
    return picture


def preview(
    original: UInt8[np.ndarray, "height width"],
    edited: UInt8[np.ndarray, "height width"],
    noise: Noise,
) -> Image.Image:
    """Return original, edited and noise side by side, each labelled (Fig. 3 of the paper)."""
    values = noise[0].detach().cpu().numpy()
    limit = float(np.abs(values).max())
    picture = _canvas(3)
    _paste(picture, 0, "original", Image.fromarray(original))
    _paste(picture, 1, "edited", Image.fromarray(edited))
    _paste(picture, 2, "noise", Image.fromarray(_diverging(values, limit)))
    _bar(picture, 2, limit)
    return picture


def gray_ramp(image_size: int) -> UInt8[np.ndarray, "height width"]:
    """Return a synthetic image that shows an edit on every gray level: dark left to light right."""
    levels = np.rint(np.linspace(16, 239, image_size)).astype(np.uint8)
    return np.tile(levels, (image_size, 1))


def png_bytes(image: Image.Image) -> bytes:
    """Return the image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _diverging(
    values: Float[np.ndarray, "height width"], limit: float
) -> UInt8[np.ndarray, "height width 3"]:
    share = np.clip(values / limit, -1.0, 1.0) if limit > 0 else np.zeros_like(values)
    ends = np.where(share[..., None] < 0, np.array(_BLUE), np.array(_RED))
    colors = np.rint(np.array(_WHITE) + np.abs(share)[..., None] * (ends - np.array(_WHITE)))
    return np.asarray(colors, dtype=np.uint8)


def _canvas(panels: int) -> Image.Image:
    width = panels * (_PANEL + _GAP) + _GAP
    return Image.new("RGB", (width, _PANEL + 2 * _TEXT + _BAR + 3 * _GAP), "white")


def _paste(picture: Image.Image, slot: int, label: str, panel: Image.Image) -> None:
    left = _GAP + slot * (_PANEL + _GAP)
    ImageDraw.Draw(picture).text((left, _GAP // 2), label, fill=_INK, font=_font())
    resized = panel.convert("RGB").resize((_PANEL, _PANEL), Image.Resampling.NEAREST)
    picture.paste(resized, (left, _TEXT + _GAP))


def _bar(picture: Image.Image, slot: int, limit: float) -> None:
    left, top = _GAP + slot * (_PANEL + _GAP), _TEXT + _PANEL + 2 * _GAP
    ramp = np.tile(np.linspace(-1.0, 1.0, _PANEL), (_BAR, 1))
    picture.paste(Image.fromarray(_diverging(ramp, 1.0)), (left, top))
    draw, font, below = ImageDraw.Draw(picture), _font(), top + _BAR + 3
    right = f"+{limit:.3g}"
    draw.text((left, below), f"-{limit:.3g}", fill=_INK, font=font)
    draw.text((left + _PANEL / 2, below), "0", fill=_INK, font=font, anchor="ma")
    draw.text((left + _PANEL, below), right, fill=_INK, font=font, anchor="ra")


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=12)
