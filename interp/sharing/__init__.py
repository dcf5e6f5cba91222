"""Checks before a folder is shared: does it hold question texts, paths, patients or images?"""
