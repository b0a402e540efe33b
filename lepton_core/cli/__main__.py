"""``python -m lepton_core.cli`` is ``lepton``."""

import sys

from lepton_core.cli import main

sys.exit(main())
