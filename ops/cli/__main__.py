"""`python -m ops.cli`: what `./relais` hands over to."""

from __future__ import annotations

import sys

from ops.cli.app import main

sys.exit(main(sys.argv[1:]))
