"""A target whose calls take a known time, to be adjusted in tests.

An artifact is ``{"factor": 2.0, "ms": {"1": 4.0, "2": 2.0}, "per_row_ms": 0.0, "facts": {}}``:
what it answers, how long a call takes by number of threads, and further facts of its session. With
``"limit"`` it answers as int8 does beyond the range that it was calibrated for: as at its end.
"""

import json
import time
from pathlib import Path

from lepton_core.capabilities import FULL, Opens, TargetInfo
from lepton_core.files import digest_path
from lepton_core.markers import hookimpl
from lepton_core.types import LineageStep, Model, Signature, TensorSpec

SOURCE = "sha256:" + "5" * 64
SIGNATURE = Signature(
    (TensorSpec("x", "float32", ("batch", 4)),), (TensorSpec("y", "float32", ("batch", 4)),)
)
INFO = TargetInfo(
    id="sleepy",
    title="Sleepy",
    distribution="sleepy",
    opens=(Opens("sleepy"),),
    capabilities={"open": FULL},
    artifact="sleepy",
)


class Session:
    def __init__(self, data, threads):
        self.signature = SIGNATURE
        self.facts = {"threads": threads, **data.get("facts", {})}
        self._factor = data["factor"]
        self._limit = data.get("limit", float("inf"))
        self._ms = data["ms"][str(min(threads, max(map(int, data["ms"]))))]
        self._per_row_ms = data.get("per_row_ms", 0.0)

    def run(self, inputs):
        x = inputs["x"]
        time.sleep((self._ms + self._per_row_ms * len(x)) / 1000)
        return {"y": x.clip(-self._limit, self._limit) * self._factor}

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *ended):
        self.close()


@hookimpl
def lepton_open(model, request, context):
    return Session(json.loads(Path(model.path).read_text()), request.threads or 2)


def artifact(path, *, factor=1.0, source=SOURCE, **times):
    """Write an artifact; all of them come from one source unless another is given."""
    path.write_text(json.dumps({"factor": factor, **times}))
    step = LineageStep("convert", "sleepy 1.0", source)
    return Model(
        "sleepy", str(path), signature=SIGNATURE, digest=digest_path(path), lineage=(step,)
    )
