"""The tables of docs/reference/same-integers.md, from the results."""

from __future__ import annotations

import math
import re

SHARE = 0.999
"""Share of integers that each layer is to have equal."""

SMALL = 0.05
"""Up to this many units before rounding count as rounding errors of a runtime's arithmetic."""

RULES = {
    "float32": "float32 throughout",
    "half up": "ties up",
    "half away": "ties away from the zero point",
    "half away, whole": "ties away from the integer 0",
}
"""Rules of the reference, in the words of the page."""

_BLOCK = re.compile(r"(<!-- (\w+): [^\n]*-->\n).*?(<!-- end of \2 -->\n)", re.DOTALL)


def filled(text, results):
    """Return the page with its tables written anew.

    Args:
        text: The page; each table stands between ``<!-- NAME: … -->`` and ``<!-- end of NAME -->``.
        results: What :func:`.campaign.results` returned.
    """
    tables = {
        "measured": _measured, "summary": _summary, "operators": _operators, "below": _below,
        "whole": _whole, "decisions": _decisions,
    }  # fmt: skip
    seen = {name for _, name, _ in _BLOCK.findall(text)}
    if seen != set(tables):
        raise ValueError(f"the page has the tables {sorted(seen)}")
    return _BLOCK.sub(lambda m: m[1] + "\n".join(tables[m[2]](results)) + "\n" + m[3], text)


def share(differ, count):
    """Return equal integers in percent, rounded down so that 100 % means all."""
    return f"{math.floor(1e6 * (count - differ) / count) / 1e4:.4f} %"


def reason(one):
    """Say what the numbers of a difference show."""
    if one["differ"] == 0:
        return "none differ"
    if one["rule"] != "recipe" and one["unexplained"] == 0:
        return f"{RULES[one['rule']]} gives all of its integers"
    if one["ties"] == one["differ"]:
        return "ties alone"
    if one["distance"] <= SMALL:
        return "rounding of the arithmetic before"
    return "other sums"


def cells(*parts):
    """Return a row of a table."""
    return f"| {' | '.join(str(part) for part in parts)} |"


def _each(results, part):
    """Yield runtime, network, value, operator and the difference there."""
    for network, found in results["networks"].items():
        for runtime, ways in found["runtimes"].items():
            for value, one in ways[part].items():
                yield runtime, network, value, found["layers"][value]["operator"], one


def _runtimes(results):
    return list(dict.fromkeys(r for n in results["networks"].values() for r in n["runtimes"]))


def _sum(ones, key):
    return sum(one[key] for one in ones)


def _measured(results):
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    networks = results["networks"].values()
    ties = sum(layer["ties"] for n in networks for layer in n["layers"].values())
    wide = "with" if results["vnni"] else "without"
    yield (
        f"Measured on {results['rows']} digits for each of {len(networks)} networks, on a CPU "
        f"{wide} VNNI or its like. Of the reference's integers {ties} are ties; the closest that "
        f"any other value comes to one is {min(n['margin'] for n in networks):.1e} units."
    )
    yield ""
    yield f"Versions: {versions}."


def _summary(results):
    yield cells("runtime", "layers", "integers", "equal", "off by one", "off by more",
                "layers off by more", "layers below 99.9 %")  # fmt: skip
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for runtime in _runtimes(results):
        ones = [one for r, _, _, _, one in _each(results, "layers") if r == runtime]
        count, differ, more = (_sum(ones, key) for key in ("count", "differ", "beyond"))
        yield cells(
            runtime, len(ones), count, share(differ, count), differ - more, more,
            sum(one["beyond"] > 0 for one in ones),
            sum(one["differ"] > (1 - SHARE) * one["count"] for one in ones),
        )  # fmt: skip


def _operators(results):
    yield cells("runtime", "operator", "layers", "integers", "differ", "equal", "largest",
                "ties among them", "farthest from the tie")  # fmt: skip
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|"
    found = {}
    for runtime, _, _, operator, one in _each(results, "layers"):
        found.setdefault((runtime, operator), []).append(one)
    order = _runtimes(results)
    for (runtime, operator), ones in sorted(found.items(), key=lambda i: order.index(i[0][0])):
        count, differ = _sum(ones, "count"), _sum(ones, "differ")
        if differ:
            yield cells(
                runtime, operator, len(ones), count, differ, share(differ, count),
                max(one["largest"] for one in ones), _sum(ones, "ties"),
                f"{max(one['distance'] for one in ones):.1e}",
            )  # fmt: skip
    yield ""
    for runtime in order:
        same = sorted(
            o for (r, o), ones in found.items() if r == runtime and not _sum(ones, "differ")
        )
        floats = sorted(_floats(results, runtime))
        said = f" In float, and rounded behind: {', '.join(floats)}." if floats else ""
        yield f"- {runtime}: no integer differs in {', '.join(same) or 'no operator'}.{said}"


def _floats(results, runtime):
    """Return the operators that a runtime computes in float between integers."""
    return {
        found["layers"][value]["operator"]
        for found in results["networks"].values()
        for value in found["runtimes"][runtime]["floats"]
    }


def _below(results):
    yield cells("runtime", "network", "layer", "operator", "equal", "largest", "reading")
    yield "|---|---|---|---|---:|---:|---|"
    order = _runtimes(results)
    for runtime, network, value, operator, one in sorted(
        _each(results, "layers"), key=lambda i: order.index(i[0])
    ):
        if one["differ"] > (1 - SHARE) * one["count"] or one["beyond"]:
            equal = share(one["differ"], one["count"])
            yield cells(
                runtime, network, f"`{value}`", operator, equal, one["largest"], reason(one)
            )


def _whole(results):
    yield cells("runtime", "network", "from integers", "largest", "from samples", "largest",
                "last value, from samples")  # fmt: skip
    yield "|---|---|---:|---:|---:|---:|---:|"
    for runtime in _runtimes(results):
        for network, found in results["networks"].items():
            row = [runtime, network]
            for part in ("from_integers", "from_samples"):
                ones = list(found["runtimes"][runtime][part].values())
                row += [
                    share(_sum(ones, "differ"), _sum(ones, "count")),
                    max(one["largest"] for one in ones),
                ]
            yield cells(*row, share(ones[-1]["differ"], ones[-1]["count"]))


def _decisions(results):
    networks, rows = results["networks"], results["rows"]
    order = ["recipe", *_runtimes(results)]
    yield cells("runtime", *(f"{name}: as the recipe" for name in networks),
                *(f"{name}: right" for name in networks))  # fmt: skip
    yield f"|---|{'---:|' * 2 * len(networks)}"
    for runtime in order:
        agree = [found["agree"].get(f"recipe | {runtime}", rows) for found in networks.values()]
        right = [found["right"][runtime] for found in networks.values()]
        yield cells(runtime, *agree, *right)
    yield ""
    pairs = {}
    for found in networks.values():
        for pair, count in found["agree"].items():
            if not pair.startswith("recipe"):
                pairs[pair] = pairs.get(pair, 0) + count
    if pairs:
        worst, best = min(pairs, key=pairs.get), max(pairs, key=pairs.get)
        whole = rows * len(networks)
        yield (
            f"Of {whole} decisions, any two runtimes agree in {pairs[worst]} "
            f"({worst.replace(' | ', ' and ')}) to {pairs[best]}."
        )
