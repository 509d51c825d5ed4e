"""`ntksel`: choose training data for language models. The API is `ntkcli.steps`; the CLI is `ntkcli.app`."""

__version__ = "0.1.0"
