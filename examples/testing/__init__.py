"""An app and its tests; see README.md."""
