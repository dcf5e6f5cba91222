"""Before a folder is shared: looking for questions, paths, patients and images in it."""
