"""Item recommendation from interactions: sources, feature masking, towers, and the method."""
