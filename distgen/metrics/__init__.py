"""How good a model is: distances, coverage, likelihood, and the quality card that holds them."""
