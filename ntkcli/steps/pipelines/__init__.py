"""Several steps as one: recipes, and the comparison of arms."""
