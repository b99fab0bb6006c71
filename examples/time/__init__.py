"""Messages that expire, messages for later, and what repeats."""
