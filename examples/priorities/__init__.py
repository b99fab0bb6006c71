"""Bulk work with a low priority, and a question that does not wait behind it."""
