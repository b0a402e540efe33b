import sys
from pathlib import Path

from hypothesis import settings

# pytest's importlib mode leaves the folder off the path; the tests share `kernel_strategies`.
sys.path.insert(0, str(Path(__file__).parent))

# Deadlines depend on the machine's load, not on the code.
settings.register_profile("lepton", deadline=None, max_examples=100)
settings.load_profile("lepton")
