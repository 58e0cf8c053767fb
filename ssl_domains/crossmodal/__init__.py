"""Two or more domains in one run: pairs of samples, towers, retrieval across."""
