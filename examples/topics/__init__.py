"""Events: what is published, and who hears of it."""
