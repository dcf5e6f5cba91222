"""Which features change when an answer flips: flips and halves, statistics of every feature, attribution, candidates.

Also `transfer`: whether SAEs that were trained on one model describe another.
"""
