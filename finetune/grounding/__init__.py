"""Saliency maps of a model and its adapter, tested against lesion boxes, controls and the model's own behaviour.

`study` selects `questions`, observes `one_image` after the other (`all_images`), scores the maps (`map_scores` for one,
`score_table` for all) and takes means (`summary`); `resume` keeps finished images, `save` writes the folder, and `run`
does both. Other packages import `settings`, `study` and `run`.
"""
