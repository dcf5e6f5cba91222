"""Where a model looks: maps of the image, judged by lesion boxes, by controls, and by the model itself.

`study` decides what is asked (`plan`), runs every arm on every image (`observe`, which `looking` does for one), scores
the maps (`faithfulness` for one, `scores` for all) and takes means (`summary`); `display`, `figures` and
`interp.views.figures.grounding` show it.
"""
