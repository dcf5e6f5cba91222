"""The `interp` command, one file per subcommand: each parses its options and calls the library once.

`finetune.cli` uses `guard`, `options`, `dataclass_options` and `renamed` too.
"""
