"""Done to a data set before training: near-duplicates found and left out, in any domain."""
