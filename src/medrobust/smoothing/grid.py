"""The radii that a run certifies unless others are asked for. Settings read them, so nothing heavy is imported here."""

RADII = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)  # l2, pixels of [0, 1]: those of PromptSmooth's tables
