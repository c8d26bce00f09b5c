"""``python -m densedpo``, which torchrun needs; the same as the command ``densedpo``."""

from densedpo.cli import main

main()
