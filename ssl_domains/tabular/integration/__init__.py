"""Table integration (arXiv 2412.00324): rows as tuples of texts, compared in pairs, joined into one."""
