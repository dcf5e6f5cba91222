"""Compare arms of a model with its base on held-out questions: consistency, accuracy and use of the image.

`run` evaluates saved adapters, `evaluate` arms in memory, and `benchmark` models of any family. `collect` asks each arm
(`arms`) through an `engine`, which is fast for Gemma 3 and plain (`plain_engine`) for others; `answers` holds what it
answered. `assess` turns answers into a `result`: `measures` (each a `measure`; PSF-Med's own in `published_measures`,
`flip_bank` and `flips_by_count`), `quadrants`, `reliability` and `flip_detection` compute numbers, `compare` tests
differences, `verdict` applies the rule. Other packages import `evaluate.evaluate`, `run.evaluate_saved`, `arms`,
`collect`, `engine`, `result.Evaluation`, `MEASURES`, `QUADRANTS` and `Answers`.
"""
