"""``python -m trisense.core`` is the ``trisense`` program: how our own processes start each other."""

from trisense.core.cli import main

main()
