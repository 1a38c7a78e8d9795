"""`python -m medrobust`, for torchrun."""

from medrobust.cli import main

main()
