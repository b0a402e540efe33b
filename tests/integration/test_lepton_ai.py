"""`pip install lepton-ai` is all that the lines of the documentation need."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys

import pytest
from devtools.projects import ROOT

# What the lines do is tested with the sources as well; this repeats it with wheels alone.
pytestmark = [
    pytest.mark.conformance,
    pytest.mark.xdist_group("clean-environments"),
    pytest.mark.timeout(900),
]

PAGE = ROOT / "docs/how-to/adapt-convert-optimize.md"
AFTER = """
import json
import lepton_core, numpy as np
ids = np.arange(5, 45).reshape(2, 20)
tokens = {"input_ids": ids, "attention_mask": ids * 0 + 1, "token_type_ids": ids * 0}
found = {}
for name, model in (("converted", converted_model), ("optimized", optimized_model)):
    with lepton_core.open(model) as session:
        found[name] = session.run(tokens)["logits"].tolist()
print(json.dumps(found))
"""


def test_the_lines_run_in_an_environment_of_their_own(clean_env, tmp_path):
    env = clean_env("lepton-ai")
    shutil.copy(ROOT / "docs/examples/small_bert.py", tmp_path)
    # Untrained, and made outside: what is asked here is whether everything is there.
    code = "import pathlib, small_bert; small_bert.train(pathlib.Path('home'), epochs=0)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=300)
    (lines,) = re.findall(
        r"^```python seed\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S
    )
    done = env.run(["-c", lines + AFTER], cwd=tmp_path, env={"HF_HOME": str(tmp_path / "home")})
    found = json.loads(done.stdout)
    for row, other in zip(found["converted"], found["optimized"], strict=True):
        assert row == pytest.approx(other, rel=0.15, abs=0.05)
    assert "verdict weak" in done.stderr
    root = tmp_path / "lepton-ai-out/bert-base-cased/onnxruntime"
    assert (root / "optimized-auto/recipe.json").is_file()
