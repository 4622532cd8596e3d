"""The command line, ``python -m nearl`` or ``nearl``: one file a command, listed in `nearl.cli.registry`."""
