"""Whether scores can be trusted before days are spent on them: kernel, sketch, stability, regression, length, supply."""
