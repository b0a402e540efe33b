"""A chart of the kernels' benchmark: how many times the CPU time of ours a peer takes, by case."""

from __future__ import annotations

import math
from html import escape
from typing import Any

# What is drawn: the case, our peer in it, and its title.
DRAWN = [
    ("int8_symmetric", "lepton", "int8 by row, scales and integers"),
    ("int4_blocks", "lepton", "int4 in blocks of 32, packed"),
    ("clip_search", "lepton, asymmetric, float zero points", "int4, least squared error"),
    ("many_tensors", "lepton", "int8, 200 tensors of BERT-base"),
    ("histogram", "lepton", "histogram of 2048 bins"),
    ("palette", "lepton fp16, 64 entries", "palette of 64 entries, 16.8 M values"),
    ("half_mask", "lepton (exact count)", "mask of the larger half"),
    ("mask_2_4", "lepton", "2:4 mask"),
    ("float16", "lepton (with counts)", "to float16"),
    ("bfloat16", "lepton (with counts)", "to bfloat16"),
    ("float8", "lepton (with counts)", "to float8 e4m3fn"),
    ("gptq", "lepton", "GPTQ, 4 bits in blocks of 128"),
    ("row_agreement", "lepton", "divergence of softmaxed rows"),
    ("block_mask", "lepton", "mask of blocks"),
]
WIDTH, LEFT, RIGHT, TOP, ROW = 860, 280, 30, 64, 34
MOST = 1000.0

# Grey lines and mid-tone marks can be read on white and on black alike.
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #57606a; }
  .title { font-size: 14px; font-weight: 600; }
  line { stroke: #8c959f; stroke-opacity: .35; }
  .one { stroke: #1f883d; stroke-opacity: 1; stroke-width: 2; }
  circle { fill: #bc4c00; fill-opacity: .75; }
  .probe { fill: #8250df; }
  @media (prefers-color-scheme: dark) {
    text { fill: #adbac7; }
    .one { stroke: #3fb950; }
    circle { fill: #f0883e; }
    .probe { fill: #bc8cff; }
  }
"""


def write_chart(report: dict[str, Any]) -> str:
    """The chart of a report as SVG.

    Args:
        report: What `kernels.py` writes as JSON.

    Returns:
        The text of an SVG file, readable on light and on dark ground.
    """
    rows = []
    for case, own, title in DRAWN:
        peers = report["cases"].get(case, {}).get("peers", {})
        if own in peers:
            rows.append((title, _ratios(peers, own, case)))
    height = TOP + ROW * len(rows) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>CPU time of other packages over that of lepton, by kernel</title>",
        f"<style>{STYLE}</style>",
        '<text class="title" x="16" y="24">CPU time over that of lepton</text>',
        f'<text x="16" y="42">{escape(_about(report))}</text>',
    ]
    bottom = TOP + ROW * len(rows)
    for power in range(-1, int(math.log10(MOST)) + 1):
        x, kind = _place(10.0**power), "one" if power == 0 else "other"
        parts.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>')
        label = f"{10.0**power:g}x"
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    for i, (title, ratios) in enumerate(rows):
        y = TOP + ROW * i + ROW / 2
        parts.append(f'<text x="16" y="{y + 4:.1f}">{escape(title)}</text>')
        parts += [_mark(name, ratio, y) for name, ratio in ratios]
    return "\n".join([*parts, "</svg>", ""])


def _about(report: dict[str, Any]) -> str:
    environment = report["environment"]
    return (
        f"best of {report['rounds']} rounds, one thread, {environment['processor']} "
        f"({environment['simd']}); each mark is a peer, hover for its name; purple: memory traffic"
    )


def _ratios(peers: dict[str, Any], own: str, case: str) -> list[tuple[str, float]]:
    base = peers[own]["cpu_s"]["best"]
    others = {name: row for name, row in peers.items() if not name.startswith("lepton")}
    if case == "palette":
        others = {name: row for name, row in others.items() if "64" in name}
    return [
        (name, row["cpu_s"]["best"] / base) for name, row in others.items() if "2 t" not in name
    ]


def _mark(name: str, ratio: float, y: float) -> str:
    kind = ' class="probe"' if name.startswith("probe") else ""
    label = escape(f"{name}: {ratio:.1f}x")
    x = _place(ratio)
    return f'<circle{kind} cx="{x:.1f}" cy="{y:.1f}" r="6"><title>{label}</title></circle>'


def _place(ratio: float) -> float:
    """Where a ratio stands: from a tenth to `MOST` on a logarithmic scale."""
    share = (math.log10(min(max(ratio, 0.1), MOST)) + 1) / (math.log10(MOST) + 1)
    return LEFT + share * (WIDTH - LEFT - RIGHT)
