"""Agents that are let go, held back, set apart, limited and resized."""
