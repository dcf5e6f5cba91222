"""The report: what a run left in its folder, as one HTML file that opens offline.

`collect` finds and checks what lies in the folder (`records` are its shapes); `screening`, `training`, `grounded`,
`ablated` and `provenance` lay it out as `tables`; `charts` draws it as SVG that follows the page's theme (`svg`);
`render` puts all of it into the template and writes the file.
"""
