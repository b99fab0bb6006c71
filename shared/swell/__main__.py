"""`python -m swell`: the same as the command `swell`."""

from swell.cli import main

main()
