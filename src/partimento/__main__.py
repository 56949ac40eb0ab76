"""`python -m partimento` is `partimento`."""

from partimento.cli.main import main

main()
