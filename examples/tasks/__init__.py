"""Files are hashed by whoever is free, and a chain says what came of a directory."""
