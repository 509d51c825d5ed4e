"""A report of a store: its facts, the sections that show them, and the HTML or Markdown page that holds these."""
