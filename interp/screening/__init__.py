"""Which features change when an answer flips: flips, statistics of every feature, attribution and candidates."""
