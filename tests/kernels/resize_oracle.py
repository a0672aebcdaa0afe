"""Resize and patchify in float64 with loops, written from the formulas and nothing else."""

import math

import numpy as np


def kernel(x: float, filter: str, a: float) -> float:
    x = abs(x)
    if filter == "bilinear":
        return max(0.0, 1 - x)
    if filter == "lanczos":
        return float(np.sinc(x) * np.sinc(x / 3)) if x < 3 else 0.0
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def weights(in_size: int, out_size: int, filter: str, antialias: bool) -> np.ndarray:
    """[out, in]. Antialiased: window cut at the border. Otherwise: border pixel repeated."""
    matrix = np.zeros((out_size, in_size))
    ratio = in_size / out_size
    for i in range(out_size):
        centre = (i + 0.5) * ratio - 0.5
        if antialias:
            stretch = max(ratio, 1.0)
            for j in range(in_size):
                matrix[i, j] = kernel((j - centre) / stretch, filter, -0.5)
            matrix[i] /= matrix[i].sum()
        else:
            first = math.floor(centre) - 1
            for j in range(first, first + 4):
                matrix[i, min(max(j, 0), in_size - 1)] += kernel(j - centre, filter, -0.75)
    return matrix


def resize(frame: np.ndarray, height: int, width: int, filter: str, antialias: bool) -> np.ndarray:
    """[H, W, 3] -> [height, width, 3]."""
    vertical = weights(frame.shape[0], height, filter, antialias)
    horizontal = weights(frame.shape[1], width, filter, antialias)
    return np.einsum("yY,YXc,xX->yxc", vertical, frame.astype(np.float64), horizontal)


def tables(heights, widths, patch_size: int = 14, merge_size: int = 2) -> np.ndarray:
    """Rows (unit, row, column) in HF's order: unit, block row, block column, row, column."""
    rows = []
    for unit, (height, width) in enumerate(zip(heights, widths, strict=True)):
        side = patch_size * merge_size
        for block_row in range(height // side):
            for block_col in range(width // side):
                for row in range(merge_size):
                    for col in range(merge_size):
                        rows.append(
                            (unit, block_row * merge_size + row, block_col * merge_size + col)
                        )
    return np.array(rows, np.int32).reshape(-1, 3)


def resize_patchify(
    frames,
    heights,
    widths,
    table,
    *,
    patch_size=14,
    temporal_patch_size=2,
    filter="bicubic",
    antialias=True,
    rounding="none",
    mean,
    std,
) -> np.ndarray:
    """[P, 3·T·p·p]; features (channel, time, y, x); rows of unit -1 are zero."""
    resized = {}
    out = np.zeros((len(table), 3 * temporal_patch_size * patch_size**2))
    for p, (unit, row, col) in enumerate(table):
        if unit < 0:
            continue
        features = []
        for channel in range(3):
            for time in range(temporal_patch_size):
                index = min(unit * temporal_patch_size + time, len(frames) - 1)
                if (unit, index) not in resized:
                    image = resize(frames[index], heights[unit], widths[unit], filter, antialias)
                    if rounding == "final":
                        image = np.rint(np.clip(image, 0, 255))
                    resized[unit, index] = image
                for y in range(patch_size):
                    for x in range(patch_size):
                        value = resized[unit, index][row * patch_size + y, col * patch_size + x]
                        features.append((value[channel] / 255 - mean[channel]) / std[channel])
        out[p] = features
    return out
