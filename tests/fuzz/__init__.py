"""Hostile inputs for every door of the package, each made from a seed and run in a process of its own."""
