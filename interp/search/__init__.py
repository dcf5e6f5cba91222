"""`find_features`: the whole search, its folder on disk, and its verification."""
