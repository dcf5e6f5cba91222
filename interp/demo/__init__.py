"""The embedded world and its recipe: synthetic radiographs, a model with a gate planted at known layers, and SAEs."""
