"""The `interp` command: a file a subcommand; each parses its options and makes one call into the library."""
