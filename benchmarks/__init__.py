"""Measurements of Swell on this machine. Every figure is measured; none is asserted."""
