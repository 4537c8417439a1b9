"""python -m errata: what launchers of many processes are given."""

from errata.cli.app import main

main()
