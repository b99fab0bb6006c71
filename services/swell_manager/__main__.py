"""`python -m swell_manager`: one manager, with its settings from the environment."""

from __future__ import annotations

import sys

from swell import config, lifecycle
from swell.errors import ConfigError
from swell_manager.app import main

if __name__ == "__main__":
    try:
        settings = config.load()
    except ConfigError as error:
        sys.exit(f"swell: {error}")
    sys.exit(lifecycle.run(lambda stop: main(settings, stop)))
