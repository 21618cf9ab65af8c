"""What an IPython kernel shows beside what Jupyter shows, for clients of E2B."""


def load_ipython_extension(ip):
    """Registers everything in an InteractiveShell; IPython calls it."""
