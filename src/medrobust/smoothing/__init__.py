"""Randomized smoothing: bounds (plain numbers), sampling (votes under noise), certificates."""
