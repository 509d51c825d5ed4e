"""What several rooms of the steps use: stores, data sets, row sets, token counts, costs."""
