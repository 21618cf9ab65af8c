"""Images of Pillow are displayed when they are shown or saved to a file.

So they reach the client of a machine without a screen, as E2B's clients expect.
"""

import functools
import importlib.abc
import importlib.machinery
import os
import sys

from . import limits

MODULE = "PIL.Image"


def watch():
    """Changes Pillow's images, now or when the user imports them."""
    if MODULE in sys.modules:
        change(sys.modules[MODULE])
    elif not any(isinstance(finder, Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder())


class Finder(importlib.abc.MetaPathFinder):
    """Finds Pillow's module where it is, and has it changed once it is loaded."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


def change(module):
    """Makes the images of a module be displayed."""
    image = module.Image
    if hasattr(image.save, "soulbox"):
        return
    original = image.save

    @functools.wraps(original)
    def save(self, fp, format=None, **params):
        original(self, fp, format, **params)
        if isinstance(fp, (str, os.PathLike)):
            display(self)

    @functools.wraps(image.show)
    def show(self, *args, **kwargs):
        display(self)

    save.soulbox = True
    image.save, image.show = save, show


def display(image):
    """Displays an image, or says that it is too large for that."""
    from IPython.display import display as publish

    try:
        if image.width * image.height > limits.PIXELS:
            note = f"the image is left out: it has more than {limits.PIXELS} pixels"
            publish({"text/plain": repr(image), "soulbox/note": note}, raw=True)
        else:
            publish(image)
    except Exception:
        pass  # the file is saved, and that is what was asked for
