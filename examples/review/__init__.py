"""A fleet of agents reviews a Python source tree and cross-checks its own findings."""
