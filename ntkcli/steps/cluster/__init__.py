"""Commands shared between processes on several machines: jobs, who runs them, what depends on what."""
