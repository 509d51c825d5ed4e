"""Whether scores can be trusted: kernel, sketch, stability, regression, length, supply."""
