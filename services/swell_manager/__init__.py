"""The manager: carries out plans, ends agents, and answers over HTTP what the fleet is."""
