"""Graphs: sources, encoders on torch_geometric layers, views. torch_geometric is imported on first use."""
