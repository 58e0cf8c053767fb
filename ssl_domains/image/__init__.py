"""Images: folders, tables of paths, arrays, Hugging Face datasets, tar shards."""
