"""The tables of each artifact, one file an artifact; every view shows these.

To add a column, add one `Column` to the table here: the terminal, the report and notebooks then have it.
"""
