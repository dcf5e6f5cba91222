"""The report: the results in one folder as one HTML file that opens offline.

`collect` finds and checks the artifacts of the folder. `search`, `evaluation` and `origins` prepare text for the page,
and `interp.views.tables` its tables. `charts` draws SVG (`svg`) that follows the theme of the page. `render` fills the
templates and writes the file.
"""
