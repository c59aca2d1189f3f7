"""Training: recipes (which model), presets (how large, how long), and Algorithm 1 of Grefenstette et al. (2018)."""
