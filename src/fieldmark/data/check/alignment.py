"""Whether one small grey picture is another one cropped, turned a little, or framed.

Lucas and Kanade, "An Iterative Image Registration Technique with an Application to Stereo Vision"
(IJCAI 1981): the move that makes two pictures agree is found by least squares, here with six
numbers for an affine move and two for brightness and contrast, for many pairs at once.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_COARSE_STEPS: Final = 8
_FINE_STEPS: Final = 4
_MAX_STEP_PX: Final = 2.0  # of 32: a longer one has left the range where the method holds
_MAX_MOVE: Final = 6.0  # px of 32; what lies further is another picture
_MIN_COARSE: Final = 0.85  # correlation at 16 px without which 32 px are not tried
_MIN_SHARED: Final = 0.6  # of the picture must be in both, once they lie on each other
_STABLE: Final = 1e-1  # keeps a picture without edges in one direction from running away
_PAIRS_AT_ONCE: Final = 256


def details_of(thumbs: Floats) -> Floats:
    """(..., h - 2, w - 2): what differs from the neighbours (the discrete Laplacian). Outlines of
    one kind of thing agree in the large; details agree in copies only."""
    inner = thumbs[..., 1:-1, 1:-1]
    up, down = thumbs[..., :-2, 1:-1], thumbs[..., 2:, 1:-1]
    left, right = thumbs[..., 1:-1, :-2], thumbs[..., 1:-1, 2:]
    result: Floats = 4 * inner - up - down - left - right
    return result


def unit_rows(values: Floats) -> Floats:
    """(n, ...) to (n, m) with mean 0 and length 1, so that products of rows are correlations."""
    rows = values.reshape(len(values), -1).astype(np.float32)
    rows = rows - rows.mean(1, keepdims=True)
    result: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return result


def halved(thumbs: Floats) -> Floats:
    """(n, h, w) to (n, h / 2, w / 2), each pixel the mean of four."""
    n, h, w = thumbs.shape
    result: Floats = thumbs.reshape(n, h // 2, 2, w // 2, 2).mean((2, 4))
    return result


def aligned_likeness(a_pss: Floats, b_pss: Floats) -> Floats:
    """(p,): the correlation of the details of each pair, once one is laid onto the other; -1 where
    that does not go.

    Args:
        a_pss, b_pss: (p, s, s) grey, p pairs.
    """
    result = np.full(len(a_pss), -1.0, np.float32)
    for start in range(0, len(a_pss), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        a, b = a_pss[part].astype(np.float32), b_pss[part].astype(np.float32)
        # The larger view is the one to cut from, and nobody knows which that is.
        result[part] = np.maximum(_laid_onto(a, b), _laid_onto(b, a))
    return result


def _laid_onto(a: Floats, b: Floats) -> Floats:
    likeness = np.full(len(a), -1.0, np.float32)
    move: Floats = np.zeros((len(a), 6), np.float32)
    small_a, small_b = halved(a), halved(b)
    move = _align(small_a, small_b, move, _COARSE_STEPS)
    moved, inside = _sample(small_a, move)
    going = _correlation(moved, small_b, inside) >= _MIN_COARSE
    going &= np.abs(move).max(1) <= _MAX_MOVE / 2
    if not going.any():
        return likeness
    a, b = a[going], b[going]
    move = _align(a, b, np.asarray(2 * move[going]), _FINE_STEPS)
    moved, inside = _sample(a, move)
    found = _correlation(details_of(moved), details_of(b), inside[:, 1:-1, 1:-1])
    far = (np.abs(move).max(1) > _MAX_MOVE) | (inside.mean((1, 2)) < _MIN_SHARED)
    likeness[going] = np.where(far, -1.0, found)
    return likeness


def _align(a: Floats, b: Floats, move: Floats, steps: int) -> Floats:
    """The affine move, (p, 6) in px, that makes `a` look like `b`, beginning from `move`."""
    p, side = len(a), a.shape[-1]
    u, v = _grid(side)
    slope_y, slope_x = (np.asarray(slope) for slope in np.gradient(a, axis=(1, 2)))
    ones = np.ones_like(b)
    for _ in range(steps):
        moved, inside = _sample(a, move)
        gx, gy = (_sample(slope, move)[0] for slope in (slope_x, slope_y))
        terms = (gx, gx * u, gx * v, gy, gy * u, gy * v, -b, -ones)
        slopes = np.stack(terms, -1).reshape(p, -1, 8) * inside.reshape(p, -1, 1)
        across = slopes.transpose(0, 2, 1)
        normal = across @ slopes + _STABLE * np.eye(8, dtype=np.float32)
        step = np.linalg.solve(normal, across @ -(moved * inside).reshape(p, -1, 1))
        move = np.asarray(move + np.clip(step[:, :6, 0], -_MAX_STEP_PX, _MAX_STEP_PX))
    return move


def _grid(side: int) -> tuple[Floats, Floats]:
    """x and y of every pixel from the centre; the edges are at -1 and 1."""
    line = (np.arange(side, dtype=np.float32) - (side - 1) / 2) / (side / 2)
    u, v = np.meshgrid(line, line)
    return u, v


def _sample(a: Floats, move: Floats) -> tuple[Floats, Floats]:
    """`a` at moved places, between pixels linearly; and 1 where such a place is inside, else 0."""
    side = a.shape[-1]
    u, v = _grid(side)
    q = move[:, :, None, None]
    half = side / 2
    x = (u + 1) * half - 0.5 + q[:, 0] + q[:, 1] * u + q[:, 2] * v
    y = (v + 1) * half - 0.5 + q[:, 3] + q[:, 4] * u + q[:, 5] * v
    inside = (x >= 0) & (x <= side - 1) & (y >= 0) & (y <= side - 1)
    x, y = (np.clip(np.nan_to_num(places), 0, side - 1.001) for places in (x, y))
    left, top = x.astype(np.intp), y.astype(np.intp)
    fx, fy = x - left, y - top
    pair = np.arange(len(a))[:, None, None]
    upper = a[pair, top, left] * (1 - fx) + a[pair, top, left + 1] * fx
    lower = a[pair, top + 1, left] * (1 - fx) + a[pair, top + 1, left + 1] * fx
    return (upper * (1 - fy) + lower * fy).astype(np.float32), inside.astype(np.float32)


def _correlation(a: Floats, b: Floats, weight: Floats) -> Floats:
    """(p,): of each pair of pictures, over what has weight 1."""
    total = np.maximum(weight.sum((1, 2), keepdims=True), 1)
    a = (a - (a * weight).sum((1, 2), keepdims=True) / total) * weight
    b = (b - (b * weight).sum((1, 2), keepdims=True) / total) * weight
    lengths = np.sqrt((a * a).sum((1, 2)) * (b * b).sum((1, 2)))
    result: Floats = (a * b).sum((1, 2)) / np.maximum(lengths, 1e-6)
    return result
