"""Agents that share a counter by compare-and-set, wait for each other, and elect one of them."""
