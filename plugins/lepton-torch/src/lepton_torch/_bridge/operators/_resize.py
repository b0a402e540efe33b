"""Resizing and sampling of images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from lepton_torch._bridge._registry import operator
from lepton_torch._bridge.operators._support import positive

if TYPE_CHECKING:
    from lepton_torch._bridge._registry import Node
    from lepton_torch._bridge._values import Known


@operator("Upsample", known=(1,))
def upsample(node: Node, x: torch.Tensor, scales: Known) -> torch.Tensor:
    """Enlarge by factors; replaced by Resize in opset 10."""
    return _resize(node, x, list(range(x.ndim)), scales.list(), None, None, "asymmetric")


@operator("Resize", known=(1, 2, 3))
def resize(
    node: Node,
    x: torch.Tensor,
    roi: Known | None = None,
    scales: Known | None = None,
    sizes: Known | None = None,
) -> torch.Tensor:
    """Resize by factors or to sizes: nearest, linear or cubic."""
    axes = [positive(a, x.ndim) for a in node.get("axes") or range(x.ndim)]
    mode = node.get("coordinate_transformation_mode", "half_pixel")
    factors = scales.list() if scales is not None and scales.values.size else None
    wanted: Any = sizes.ints() if sizes is not None and sizes.values.size else None
    if wanted is not None:
        factors = None
        policy = node.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            ratios = [w / x.shape[a] for w, a in zip(wanted, axes, strict=True)]
            ratio = (min if policy == "not_larger" else max)(ratios)
            factors = [ratio] * len(axes)
            wanted = [int(ratio * x.shape[a] + 0.5) for a in axes]
    corners = roi.list() if roi is not None and roi.values.size else None
    return _resize(node, x, axes, factors, wanted, corners, mode)


def _resize(
    node: Node,
    x: torch.Tensor,
    axes: list[int],
    factors: list[Any] | None,
    wanted: list[Any] | None,
    roi: list[float] | None,
    mode: str,
) -> torch.Tensor:
    if wanted is None:
        assert factors is not None  # noqa: S101 - one of the two is given
        wanted = [_scaled(x.shape[a], f) for a, f in zip(axes, factors, strict=True)]
    fast = _by_torch(node, x, axes, factors, wanted, mode)
    if fast is not None:
        return fast
    dtype = x.dtype
    result = x if x.is_floating_point() else x.float()
    for i, axis in enumerate(axes):
        length, size = x.shape[axis], wanted[i]
        factor = factors[i] if factors is not None else size / length
        still = isinstance(length, int) and isinstance(size, int) and size == length
        if still and factor == 1 and mode != "tf_crop_and_resize":
            continue
        if node.get("antialias", 0) and not isinstance(factor, int | float):
            node.refuse(
                "it is smoothed against aliasing by a factor that follows from a symbolic size",
                "Fix the sizes of the inputs.",
            )
        corner = (roi[i], roi[i + len(axes)]) if roi is not None else (0.0, 1.0)
        places = _places(mode, size, length, factor, corner)
        result = _along(node, result, axis, places, mode, factor)
    return result if result.dtype == dtype else torch.round(result).to(dtype)


def _scaled(length: Any, factor: Any) -> Any:  # noqa: ANN401 - sizes, maybe symbolic
    whole = round(factor)
    if factor == whole:
        return length * whole
    return torch.sym_int(length * factor)


def _by_torch(
    node: Node,
    x: torch.Tensor,
    axes: list[int],
    factors: list[Any] | None,
    wanted: list[Any],
    mode: str,
) -> torch.Tensor | None:
    """Use torch's own interpolation where it computes the same; ``None`` elsewhere."""
    if x.ndim not in (3, 4, 5) or not x.is_floating_point() or node.get("antialias", 0):
        return None
    goal = [x.shape[a] for a in range(2, x.ndim)]
    for i, (axis, size) in enumerate(zip(axes, wanted, strict=True)):
        if axis >= 2:
            goal[axis - 2] = size
        elif factors[i] != 1 if factors is not None else size != x.shape[axis]:
            return None
    if factors is not None and not all(f == round(f) and f >= 1 for f in factors):
        return None
    kind, rounding = node.get("mode", "nearest"), node.get("nearest_mode", "round_prefer_floor")
    if (kind, mode, rounding) == ("nearest", "asymmetric", "floor") and factors is not None:
        return functional.interpolate(x, goal, mode="nearest")
    single = any(isinstance(g, int) and g == 1 for g in goal)  # pytorch_half_pixel differs there
    smooth = ("half_pixel",) if single else ("half_pixel", "pytorch_half_pixel", "align_corners")
    if kind == "linear" and mode in smooth:
        name = ("linear", "bilinear", "trilinear")[x.ndim - 3]
        return functional.interpolate(x, goal, mode=name, align_corners=mode == "align_corners")
    return None


def _places(
    mode: str,
    size: Any,  # noqa: ANN401 - sizes, maybe symbolic
    length: Any,  # noqa: ANN401
    factor: Any,  # noqa: ANN401
    corner: tuple[float, float],
) -> torch.Tensor:
    """Return where each new element lies among the old ones, by ONNX's coordinate modes."""
    at = torch.arange(size, dtype=torch.float32)
    single = isinstance(size, int) and size == 1
    if mode == "align_corners":
        places = at * (0 if single else (length - 1) / (factor * length - 1))
    elif mode == "asymmetric":
        places = at / factor
    elif mode == "tf_crop_and_resize":
        begin, end = corner
        if single:
            places = at * 0 + 0.5 * (begin + end) * (length - 1)
        else:
            places = begin * (length - 1) + at * ((end - begin) * (length - 1) / (size - 1))
    elif mode == "pytorch_half_pixel" and single:
        places = at * 0
    else:
        places = (at + 0.5) / factor - 0.5
        if mode == "half_pixel_symmetric":
            places = places + length / 2 * (1 - size / (factor * length))
    return places


def _along(
    node: Node,
    x: torch.Tensor,
    axis: int,
    places: torch.Tensor,
    mode: str,
    factor: Any,  # noqa: ANN401 - a number, maybe symbolic
) -> torch.Tensor:
    """Resample one axis at fractional places."""
    length = x.shape[axis]
    kind = node.get("mode", "nearest")
    if kind == "nearest":
        result = x.index_select(axis, _nearest(node, places).clamp(0, length - 1))
    else:
        index, weight = _kernel(node, places, kind, factor)
        if node.get("exclude_outside", 0):
            weight = torch.where((index < 0) | (index >= length), 0.0, weight)
            weight = weight / weight.sum(0, keepdim=True)
        index = index.clamp(0, length - 1)
        shape = [-1 if i == axis else 1 for i in range(x.ndim)]
        result = sum(
            x.index_select(axis, index[tap]) * weight[tap].reshape(shape).to(x.dtype)
            for tap in range(index.shape[0])
        )
    if mode == "tf_crop_and_resize":
        outside = ((places < 0) | (places > length - 1)).reshape(
            [-1 if i == axis else 1 for i in range(x.ndim)]
        )
        result = torch.where(outside, node.get("extrapolation_value", 0.0), result)
    return result


def _nearest(node: Node, places: torch.Tensor) -> torch.Tensor:
    rounding = node.get("nearest_mode", "round_prefer_floor")
    if rounding == "floor":
        found = torch.floor(places)
    elif rounding == "ceil":
        found = torch.ceil(places)
    elif rounding == "round_prefer_ceil":
        found = torch.floor(places + 0.5)
    else:
        found = torch.ceil(places - 0.5)
    return found.to(torch.int64)


def _kernel(
    node: Node,
    places: torch.Tensor,
    kind: str,
    factor: Any,  # noqa: ANN401 - a number, maybe symbolic
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the neighbours of every place and their weights, one row per neighbour.

    With ``antialias`` the kernel is as much wider as the image gets smaller.
    """
    taps = 1 if kind == "linear" else 2
    stretch = min(factor, 1.0) if node.get("antialias", 0) else 1.0
    reach = taps if stretch == 1.0 else math.ceil(taps / stretch)
    steps = torch.arange(1 - reach, reach + 1).unsqueeze(1)
    index = torch.floor(places).to(torch.int64).unsqueeze(0) + steps
    distance = (places.unsqueeze(0) - index).abs() * stretch
    if kind == "linear":
        weight = (1 - distance).clamp(min=0)
    else:
        a = node.get("cubic_coeff_a", -0.75)
        near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
        far = a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
        weight = torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))
    if stretch != 1.0:
        weight = weight / weight.sum(0, keepdim=True)
    return index, weight


@operator("GridSample")
def grid_sample(node: Node, x: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Sample at the places of a grid between -1 and 1."""
    kind = node.get("mode", "linear")
    name = {"linear": "bilinear", "cubic": "bicubic"}.get(kind, kind)
    if name == "bicubic" and x.ndim != 4:
        node.refuse("cubic sampling in three dimensions")
    return functional.grid_sample(
        x, grid, name, node.get("padding_mode", "zeros"), bool(node.get("align_corners", 0))
    )


@operator("AffineGrid", known=(1,))
def affine_grid(node: Node, theta: torch.Tensor, size: Known) -> torch.Tensor:
    """Return the grid of an affine map."""
    return functional.affine_grid(theta, size.ints(), bool(node.get("align_corners", 0)))
