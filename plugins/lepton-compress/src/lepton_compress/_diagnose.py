"""Why static int8 loses accuracy: mechanisms that numbers show, with the layer and the cure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lepton_compress._recover_scales import STEPS
from lepton_compress._select import SAME_SCALE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lepton_compress._calibrate import Range
    from lepton_compress._channels import Channels
    from lepton_compress._graph import Graph
    from lepton_compress._recover_sites import Site
    from lepton_core.recipe import Recipe

FEW_LEVELS = 32.0
"""A channel that gets fewer of the steps of its value is in danger."""

CURED = ("outlier-channel", "uneven-channels", "mixed-head", "u8s8-saturation")
"""Mechanisms that recovery has a cure for."""

_OUTLIER = 8.0
_FEW_JOINED = 16.0
_CANCELS = 8.0
_BEYOND = 0.1
LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class Finding:
    """One mechanism at one place.

    Attributes:
        mechanism: ``"outlier-channel"``, ``"uneven-channels"``, ``"mixed-head"``,
            ``"clipped-range"``, ``"uneven-weights"``, ``"cancelling-residual"``,
            ``"fp16-overflow"`` or ``"u8s8-saturation"``.
        value: The value or weight where it shows.
        layer: Node that yields it; empty for inputs.
        module: Path of the module in the source, where names tell it.
        numbers: What shows it.
        text: The same as a sentence.
        cure: What helps.
        methods: Ways of recovery that may help, in the words of ``--option recover``.
        gave_back: The way that did, with the metric's drop and the error of the outputs before and
            after, of all places where it was used together; empty if none did.
    """

    mechanism: str
    value: str
    layer: str
    module: str
    numbers: Mapping[str, Any]
    text: str
    cure: str
    methods: tuple[str, ...] = ()
    gave_back: Mapping[str, Any] = field(default_factory=dict)

    def facts(self, graph: Graph, places: Mapping[str, str]) -> dict[str, Any]:
        """Return plain data for the record.

        Args:
            graph: The pivot.
            places: The user's source line by name of a node, where it is known.
        """
        names = ("mechanism", "value", "layer", "module", "text", "cure")
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        found["place"] = places.get(self.layer or _reader(graph, self.value), "")
        return found | {"numbers": dict(self.numbers), "gave_back": dict(self.gave_back)}


def channel_findings(
    graph: Graph,
    sites: Iterable[Site],
    channels: Mapping[str, Channels],
    *,
    head: bool,
    steps: int = STEPS,
) -> list[Finding]:
    """Find values whose channels have to share a scale that fits few of them.

    Args:
        graph: The pivot.
        sites: Values with a channel axis.
        channels: What they look like over calibration rows.
        head: Whether they are outputs that float operators read.
        steps: Steps that the range of a value has.
    """
    found = []
    for site in sites:
        if site.value not in channels or site.channels < 2:
            continue
        peaks = channels[site.value].grouped(site.channels).absmax
        alive = np.sort(peaks[peaks > 0])
        if alive.size < 2:
            continue
        middle, largest = float(np.median(alive)), float(alive[-1])
        levels = steps * middle / largest
        if levels >= FEW_LEVELS:
            continue
        outliers = np.flatnonzero(peaks > _OUTLIER * middle)
        few = 0 < len(outliers) <= max(1, site.channels // 8)
        kind = "mixed-head" if head else "outlier-channel" if few else "uneven-channels"
        numbers: dict[str, Any] = {
            "channels": site.channels,
            "largest": _short(largest),
            "median": _short(middle),
            "levels_of_median": round(levels, 1),
        }
        if few:
            numbers["outliers"] = [int(i) for i in outliers]
        methods = ("balance",) if head else (("equalize",) if site.product else ()) + ("smooth",)
        text = _channel_text(kind, site, numbers, steps)
        found.append(
            finding(
                graph, kind, site.value, numbers, text=text, cure=_cure(methods), methods=methods
            )
        )
    return found


def _channel_text(kind: str, site: Site, numbers: Mapping[str, Any], steps: int) -> str:
    share = f"the channel in the middle gets {numbers['levels_of_median']} of {steps} steps"
    if kind == "outlier-channel":
        places = ", ".join(map(str, numbers["outliers"][:5]))
        return (
            f"{site.value}: channels {places} of {site.channels} reach {numbers['largest']:g}, the "
            f"others {numbers['median']:g}; {share}"
        )
    if kind == "mixed-head":
        return (
            f"{site.value}: one output holds channels of different scales, up to "
            f"{numbers['largest']:g}, in the middle {numbers['median']:g}; {share}"
        )
    return (
        f"{site.value}: its {site.channels} channels have different ranges, up to "
        f"{numbers['largest']:g}, in the middle {numbers['median']:g}; {share}"
    )


def _cure(methods: Sequence[str]) -> str:
    return "--option recover=" + ",".join(methods)


def concat_findings(
    graph: Graph, recipe: Recipe, ranges: Mapping[str, Range], *, steps: int = STEPS
) -> list[Finding]:
    """Find integer concatenations of values whose ranges are far apart."""
    found = []
    for name, layer in recipe.layers.items():
        if layer.op != "Concat" or layer.mode != "static":
            continue
        widths = {
            n: max(abs(ranges[n].low), abs(ranges[n].high)) for n in layer.inputs if n in ranges
        }
        alive = {n: width for n, width in widths.items() if width > 0}
        if len(alive) < 2:
            continue
        small = min(alive, key=lambda n: alive[n])
        left = steps * alive[small] / max(alive.values())
        if left >= _FEW_JOINED:
            continue
        numbers = {"ranges": {n: _short(width) for n, width in alive.items()}}
        text = (
            f"{name}: it joins values up to {max(alive.values()):.4g} and {small!r}, up to "
            f"{alive[small]:.4g}, which gets {left:.1f} of {steps} steps"
        )
        cure = f"--option keep={name}"
        found.append(finding(graph, "mixed-head", name, numbers, text=text, cure=cure))
    return found


def weight_findings(graph: Graph, recipe: Recipe) -> list[Finding]:
    """Find weights with one scale for channels whose ranges are far apart."""
    found = []
    for name, layer in recipe.layers.items():
        tensor = recipe.tensors.get(layer.weight or "")
        if tensor is None or tensor.kind != "weight" or tensor.axis is not None:
            continue
        array = graph.array(layer.weight or "")
        if array.ndim < 2:
            continue
        peaks = np.abs(array).max(tuple(range(1, array.ndim)))
        alive = peaks[peaks > 0]
        if alive.size < 2 or STEPS / 2 * np.median(alive) / alive.max() >= FEW_LEVELS:
            continue
        numbers = {"largest": _short(alive.max()), "median": _short(np.median(alive))}
        text = (
            f"{layer.weight}: one scale for channels up to {alive.max():.4g}, in the middle "
            f"{np.median(alive):.4g}"
        )
        cure = f"--option keep={name}"
        found.append(finding(graph, "uneven-weights", name, numbers, text=text, cure=cure))
    return found


def sum_findings(graph: Graph, recipe: Recipe, channels: Mapping[str, Channels]) -> list[Finding]:
    """Find integer sums whose operands cancel, so that their rounding is all that is left."""
    found = []
    for name, layer in recipe.layers.items():
        values = (*layer.inputs, name)
        if layer.op != "Add" or len(layer.inputs) != 2 or not all(v in channels for v in values):
            continue
        sizes = [float(np.sqrt(channels[v].power.mean())) for v in values]
        if max(sizes[:2]) < _CANCELS * sizes[2] or not sizes[2]:
            continue
        numbers = {"operands": [_short(s) for s in sizes[:2]], "sum": _short(sizes[2])}
        text = (
            f"{name}: its operands cancel, root mean squares {sizes[0]:.4g} and {sizes[1]:.4g} "
            f"leave {sizes[2]:.4g}, and their rounding with it"
        )
        found.append(
            finding(
                graph,
                "cancelling-residual",
                name,
                numbers,
                text=text,
                cure=f"--option keep={name}",
            )
        )
    return found


def range_findings(
    graph: Graph,
    recipe: Recipe,
    chosen: Mapping[str, Range],
    seen: Mapping[str, Range],
    *,
    clips: bool = False,
) -> list[Finding]:
    """Find values that leave their calibrated range on other rows, and too large ones for fp16.

    Args:
        graph: The pivot.
        recipe: The recipe.
        chosen: Calibrated ranges.
        seen: Ranges over rows that were not calibrated on.
        clips: Whether the estimator cuts ranges.
    """
    found = []
    moved = {layer.output for layer in recipe.layers.values() if layer.op in SAME_SCALE}
    for value, after in seen.items():
        before = chosen.get(value)
        if before is None or value in moved:
            continue
        width = before.chosen_high - before.chosen_low
        over = max(after.high - before.chosen_high, before.chosen_low - after.low, 0.0)
        numbers = {
            "calibrated": [_short(before.chosen_low), _short(before.chosen_high)],
            "seen": [_short(after.low), _short(after.high)],
        }
        if width > 0 and over > _BEYOND * width:
            text = (
                f"{value}: calibrated for {numbers['calibrated']}, other rows reach "
                f"{numbers['seen']}: what lies beyond is cut off"
            )
            cure = "more samples to calibrate on"
            cure += ", or --option estimator=minmax" if clips else ""
            found.append(finding(graph, "clipped-range", value, numbers, text=text, cure=cure))
        largest = max(abs(after.low), abs(after.high), abs(before.low), abs(before.high))
        if largest > LARGEST_HALF:
            text = f"{value}: {largest:.6g} is more than float16 holds ({LARGEST_HALF:g})"
            cure = f"keep it in fp32: --option keep={value} with fp16"
            found.append(finding(graph, "fp16-overflow", value, numbers, text=text, cure=cure))
    return found


def finding(
    graph: Graph,
    mechanism: str,
    value: str,
    numbers: Mapping[str, Any],
    *,
    text: str,
    cure: str,
    methods: tuple[str, ...] = (),
) -> Finding:
    """Return a finding at a value of the graph, with the node and the module that yield it."""
    node = graph.producer.get(value)
    layer = "" if node is None else node.name or node.output[0]
    return Finding(mechanism, value, layer, module_of(graph, value), numbers, text, cure, methods)


def module_of(graph: Graph, value: str) -> str:
    """Return the dotted path of the module that yields a value, as far as names tell.

    Names of values from torch are ``module/operation``, those of weights ``module.weight``; behind
    an activation it is the module of the product before it.
    """
    current = value
    for _ in range(4):
        if "/" in current and "." in current.split("/")[0]:
            return current.rpartition("/")[0]
        node = graph.producer.get(current)
        if node is None:
            return ""
        for name in node.input[1:]:
            if name in graph.weights and name.endswith((".weight", ".bias")):
                return str(name).rpartition(".")[0]
        if "/" in current:
            return current.rpartition("/")[0]
        current = node.input[0] if node.input else ""
    return ""


def _reader(graph: Graph, value: str) -> str:
    """Return the first node that reads a weight or an input; empty if none does."""
    return next((n.name for n in graph.nodes.values() if value in n.input), "")


def _short(value: float) -> float:
    return float(f"{float(value):.4g}")


__all__ = [
    "CURED", "Finding", "channel_findings", "concat_findings", "finding", "module_of",
    "range_findings", "sum_findings", "weight_findings",
]  # fmt: skip
