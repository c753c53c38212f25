"""`python -m hpd` is `hpd`."""

from hpd.cli import main

main()
