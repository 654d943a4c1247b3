"""Loaded into a worker as a module of kinds: its clock is two hours fast. Never import it."""

from __future__ import annotations

import time

OFF_S = 7_200.0
_true_time = time.time

time.time = lambda: _true_time() + OFF_S
