"""Agents whose slow set-up is done before they are wanted."""
