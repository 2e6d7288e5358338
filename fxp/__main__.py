"""`python -m fxp`: the command line."""

from fxp.cli import main

main()
