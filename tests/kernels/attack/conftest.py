"""How many attacks: HYPOTHESIS_PROFILE picks "sanitize", "quick" (the default) or "long"."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

# Always the same attacks, but for those of "long", which are to find new ones.
common = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None}
common |= {"report_multiple_bugs": False, "phases": (Phase.generate, Phase.shrink)}
settings.register_profile("sanitize", max_examples=15, derandomize=True, **common)
settings.register_profile("quick", max_examples=60, derandomize=True, **common)
settings.register_profile("long", max_examples=2000, print_blob=True, **common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
