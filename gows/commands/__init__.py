"""The subcommands of `gows`, one a module: `add_arguments(parser)` and `run(args) -> int`."""
