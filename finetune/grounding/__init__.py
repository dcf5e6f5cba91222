"""Saliency maps of a model and its adapter, tested against lesion boxes, controls and the model's own behaviour.

`study` selects `questions`, observes `one_image` after the other (`all_images`), scores the maps (`map_scores` for one,
`score_table` for all) and takes means (`summary`); `resume` holds finished images, `run` writes the folder. Other
packages import `study`, `run` and `one_image.MapSettings`.
"""
