"""Publishing an adapter: its model `card`, and the `push` of its folder to the hub.

Other packages import `card.model_card` and the functions of `push`.
"""
