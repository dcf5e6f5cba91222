"""The `finetune` command, one file per subcommand: each parses its options and calls the library once.

Options that are settings are fields of their dataclass (`interp.cli.dataclass_options`).
"""
