"""The bus: shards, and how batches are appended to, read from and settled in them."""
