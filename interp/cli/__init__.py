"""The `interp` command, one file per subcommand: each parses its options and calls the library once.

`finetune.cli` uses `guard`, `options`, `dataclass_options` and `renamed` too.
"""


def main() -> None:
    """Start the command from a script that release 0.1 installed; `pip install` writes a new one. Remove with 0.3."""
    from interp.cli.app import run

    run()
