"""What people already have, as agents; see README.md."""
