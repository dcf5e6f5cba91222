"""Compare arms of a model with its base on held-out questions: consistency, accuracy and use of the image.

`run` evaluates saved adapters, `evaluate` arms in memory: `collect` asks each arm (`arms`), `answers` holds what it
answered, `measures` and `quadrants` compute numbers from it, `compare` tests differences, `verdict` applies the rule.
Other packages import `evaluate.evaluate`, `run.evaluate_saved`, `arms`, `MEASURES`, `QUADRANTS` and `Answers`.
"""
