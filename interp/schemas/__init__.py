"""The artifacts: one pydantic schema per file, which its writer and its readers share.

`interp schemas` writes them as JSON Schemas. A schema's version is the default of its field `schema_version`.
"""
