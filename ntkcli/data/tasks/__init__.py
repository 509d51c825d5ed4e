"""Published data sets as prompts: the task files, and how their rows are read."""
