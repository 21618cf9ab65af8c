"""The published Python SDK against a real server: sdk.py [NAME...]"""

from importlib.metadata import version

import commands  # noqa: F401
import files  # noqa: F401
import lifecycle  # noqa: F401
import network  # noqa: F401
import snapshots  # noqa: F401
import templates  # noqa: F401
from suite import main

main("python", version("e2b"))
