"""Swell coordinates large fleets of agents over Redis Streams."""

from __future__ import annotations

__version__ = "0.1.0"
