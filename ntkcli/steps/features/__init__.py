"""Features of the rows of a data set: their settings, arrays and parts, and what they cost."""
