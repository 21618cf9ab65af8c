"""Runs a Python program in a sandbox of your own, with E2B's published SDK."""

import time

from e2b import Sandbox

began = time.monotonic()
with Sandbox.create(timeout=60) as sandbox:
    created = time.monotonic()
    result = sandbox.commands.run(
        "python3 -c 'import platform; print(\"Hello from\", platform.platform())'"
    )
    ran = time.monotonic()
    print(result.stdout, end="")
print(f"sandbox {sandbox.sandbox_id}: created in {(created - began) * 1000:.0f} ms, "
      f"first program in {(ran - created) * 1000:.0f} ms, "
      f"gone after {(time.monotonic() - ran) * 1000:.0f} ms")
