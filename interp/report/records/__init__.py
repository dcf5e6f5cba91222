"""The JSON beside layers.json, as far as a report reads it: a file of the run, a file here."""
