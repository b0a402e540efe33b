#!/usr/bin/env python3
"""Measures whether searches under a budget keep it on rows that nobody has seen.

Small networks are trained on classes that scikit-learn generates, so that fresh rows are never
short; hidden channels are then given other scales, so that low precisions cost something. Each
trial draws a network, a split, a budget of 0.5 to 5 points and new rows to calibrate, search and
verify on; then the loss is measured on 4,000 fresh rows. Goals: the budget is exceeded in at most
5 of 100 trials that end with a recipe, and at most one trial in ten is refused (100 gave 5), as
nothing can be shown to keep the budget; and on networks small enough to measure every choice, the
one found with fewer measurements is within 5 % of the smallest that the same rows accept, and
something is found wherever something is accepted, which must be so in at least half of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

CLASSES, FEATURES, FRESH = 6, 64, 4000
SPREAD = 4
"""Channels differ by up to this power of two to either side."""

NETWORKS, ROWS = 4, (600, 900, 1500)

EXCEEDED, REFUSED, RATIO = 0.05, 0.1, 1.05
"""Largest shares of trials, and the largest size over that of the optimum."""


def data_of(seed, rows):
    from sklearn.datasets import make_classification

    x, y = make_classification(
        rows, FEATURES, n_informative=16, n_redundant=16, n_classes=CLASSES,
        n_clusters_per_class=2, class_sep=1.6, flip_y=0.03, random_state=seed,
    )  # fmt: skip
    return x.astype(np.float32), y.astype(np.int64)


def network(kind):
    from torch import nn

    widths = ((64, 64), (96, 64), (128, 64), (64, 96, 64))[kind]
    layers, before = [], FEATURES
    for width in widths:
        layers += [nn.Linear(before, width), nn.ReLU()]
        before = width
    return nn.Sequential(*layers, nn.Linear(before, CLASSES))


def trained(kind, x, y):
    import torch
    from torch import nn

    torch.manual_seed(kind)
    torch.set_num_threads(1)
    body = network(kind)
    optimizer = torch.optim.AdamW(body.parameters(), lr=3e-3)
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    for _ in range(12):
        for rows in torch.randperm(len(a)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(body(a[rows]), b[rows]).backward()
            optimizer.step()
    spoil(body, kind)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = body

        def forward(self, x):
            return {"logits": self.body(x)}

    return Net().eval()


def spoil(body, seed):
    """Give hidden channels other scales; the function stays, and quantizing it costs more."""
    import torch

    layers = list(body)[::2]
    torch.manual_seed(100 + seed)
    with torch.no_grad():
        for one, two in itertools.pairwise(layers):
            scale = 2 ** (torch.rand(one.out_features) * 2 * SPREAD - SPREAD)
            one.weight *= scale[:, None]
            one.bias *= scale
            two.weight /= scale


def exported(model, folder):
    import torch

    import lepton_core as lepton
    from lepton_core.context import Context

    folder.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            model, (torch.zeros(2, FEATURES),), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
    torch.export.save(program, folder / "net.pt2")
    place = folder / "pivot"
    place.mkdir()
    return lepton.convert(
        folder / "net.pt2", target="onnxruntime", to_format="pivot", context=Context(place)
    ).model


def job_of(pivot_model, folder, budget, seed):
    """Return the engine's job for a search, run in this process."""
    from lepton_compress._graph import Graph
    from lepton_compress._job import Job
    from lepton_compress._options import read_options
    from lepton_core.context import Context
    from lepton_core.dispatch import Hooks
    from lepton_core.registry import Registry
    from lepton_core.types import OptimizeRequest
    from lepton_onnx import pivot

    folder.mkdir(parents=True)
    scratch = folder / "scratch"
    scratch.mkdir()
    context = Context(folder, seed=seed, hooks=Hooks(Registry()))
    request = OptimizeRequest("onnxruntime", precision="mixed", max_drop=budget)
    options = read_options({"recipe_only": True, "threads": 1}, "mixed")
    return Job(Graph(pivot.load(pivot_model.path)), pivot_model, request, options, context,
               replace(context, workdir=scratch))  # fmt: skip


def trial(number, net, pool, folder):
    """Search once; return the budget, what was chosen and its loss on fresh rows."""
    from lepton_compress._search import search
    from lepton_core.errors import OptimizeError
    from lepton_core.samples import from_arrays

    random = np.random.default_rng(number)
    budget = float(np.exp(random.uniform(np.log(0.005), np.log(0.05))))
    rows = int(random.choice(ROWS))
    x, y = pool
    at = random.permutation(len(x))
    mine, fresh = at[:rows], at[rows : rows + FRESH]
    job = job_of(net, folder, budget, number)
    try:
        found = search(job, from_arrays({"x": x[mine], "labels": y[mine]}))
    except OptimizeError as error:
        return {"trial": number, "budget": budget, "rows": rows, "refused": error.code}
    facts = found.facts["search"]
    plain = found.facts["sensitivity"]["float"]["size"]
    right = [accuracy(net, recipe, x[fresh], y[fresh], folder) for recipe in (None, found.recipe)]
    drop = right[0] - right[1]
    return {
        "trial": number, "budget": budget, "rows": rows, "proved": facts["proved"],
        "fresh_drop": drop, "exceeded": drop > budget + 1e-9,
        "size": facts["chosen"]["size"] / plain, "measured": facts["measured"],
    }  # fmt: skip


def accuracy(net, recipe, x, y, folder):
    """Return the share of rows that the network gets right, lowered by a recipe or as it is."""
    import lepton_core as lepton
    from lepton_core.context import Context

    place = folder / ("compressed" if recipe else "float")
    place.mkdir()
    context = Context(place)
    made = lepton.convert(net, target="onnxruntime", recipe=recipe, context=context).model
    with lepton.open(made, threads=1) as session:
        name = session.signature.inputs[0].name
        found = session.run({name: x})["logits"]
    return float((found.argmax(1) == y).mean())


def optimum(number, net, pool, folder):
    """Compare a search with few measurements with all choices, on the same rows."""
    from lepton_compress._search import prepared
    from lepton_compress._search_find import Finder
    from lepton_compress._search_solve import count, everything
    from lepton_core.samples import from_arrays

    random = np.random.default_rng(1000 + number)
    budget = float(random.uniform(0.002, 0.03))
    x, y = pool
    at = random.permutation(len(x))[:3000]  # fewer, and one row is more than a small budget
    job = job_of(net, folder, budget, number)
    made = prepared(job, from_arrays({"x": x[at], "labels": y[at]}))[0][-1]
    total = count(made.finder.costs)
    allowed = max(8, total // 10)
    finder = Finder(
        made.meter, made.finder.costs, budget, None, made.plain.size, made.finder.limits,
        exhaustive=0, trials=allowed,
    )  # fmt: skip
    found = finder.run()
    spent = finder.spent
    points = made.meter.of_all(list(everything(made.finder.costs)), "every choice")
    finder.add(points)
    best = finder.best()
    if best is None or found is None:
        if best is None and found is None:
            word = "nothing accepted"
        else:
            word = "not found" if found is None else "not accepted"
        return {"trial": number, "choices": total, "outcome": word}
    return {"trial": number, "choices": total, "spent": spent, "budget": budget,
            "ratio": found.size / best.size}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--optima", type=int, default=8)
    given = parser.parse_args()
    began = time.time()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        pools, nets = [], []
        for kind in range(NETWORKS):
            x, y = data_of(kind, 3000 + 9000)
            nets.append(exported(trained(kind, x[:3000], y[:3000]), folder / f"net{kind}"))
            pools.append((x[3000:], y[3000:]))
        trials = []
        for number in range(given.trials):
            kind = number % NETWORKS
            trials.append(trial(number, nets[kind], pools[kind], folder / f"trial{number}"))
            print(trials[-1], flush=True)
        optima = []
        for number in range(given.optima):
            kind = (0, 2)[number % 2]
            optima.append(optimum(number, nets[kind], pools[kind], folder / f"optimum{number}"))
            print(optima[-1], flush=True)
    result = summary(trials, optima, time.time() - began)
    print(json.dumps({k: v for k, v in result.items() if k not in ("trials", "optima")}, indent=1))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if result["ok"] else 1


def summary(trials, optima, seconds):
    done = [t for t in trials if "refused" not in t]
    exceeded = sum(t["exceeded"] for t in done)
    ratios = [o["ratio"] for o in optima if "ratio" in o]
    wrong = [o for o in optima if o.get("outcome") in ("not found", "not accepted")]
    refused = len(trials) - len(done)
    held = {
        "budgets": bool(done) and exceeded <= EXCEEDED * len(done),
        "refusals": refused <= REFUSED * len(trials),
        "optima": not wrong and max(ratios, default=1.0) <= RATIO,
        "compared": 2 * len(ratios) >= max(len(optima), 1),
    }
    return {
        "exceeded": exceeded,
        "of": len(done),
        "refused": refused,
        "proved": sum(t["proved"] for t in done),
        "median_size": float(np.median([t["size"] for t in done])) if done else None,
        "worst_ratio_to_the_optimum": max(ratios, default=None),
        "seconds": round(seconds, 1),
        "held": held,
        "ok": all(held.values()),
        "trials": trials,
        "optima": optima,
    }


if __name__ == "__main__":
    sys.exit(main())
