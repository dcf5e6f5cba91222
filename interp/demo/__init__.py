"""The embedded world: synthetic radiographs, a model with a gate planted at known layers, its SAEs, their recipe."""
