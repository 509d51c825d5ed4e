"""One file a verb: parse the options, call one step, show its result. No logic of their own."""
