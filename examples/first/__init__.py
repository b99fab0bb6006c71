"""The smallest whole program: one agent type, and a client that uses it."""
