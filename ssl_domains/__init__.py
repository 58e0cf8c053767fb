"""Self-supervised learning for tables, graphs and more."""
__version__ = "0.1.0"
