"""The `interp` command, one file per subcommand: each parses its options and calls the library once.

`finetune.cli` uses what is here of no subcommand: `guard`, `process`, `options`, `dataclass_options`, `grouped_help`,
`meant` and `renamed`.
"""


def main() -> None:
    """Start the command from a script that release 0.1 installed; `pip install` writes a new one. Remove with 0.3."""
    from interp.cli.app import run

    run()
