"""The `finetune` command, one file per subcommand: each parses its options and calls the library once.

Options that are settings are fields of their dataclass (`interp.cli.dataclass_options`).
"""


def main() -> None:
    """Start the command from a script that release 0.1 installed; `pip install` writes a new one. Remove with 0.3."""
    from finetune.cli.app import run

    run()
