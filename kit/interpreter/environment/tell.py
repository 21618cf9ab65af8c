"""Tells about the Python that runs it: where its packages are, and whose files.

Asked with a JSON object on standard input, {"files": [name, …]}; answers with
one on standard output. It needs nothing but the standard library.
"""

import importlib.metadata
import json
import os
import platform
import re
import sys
import sysconfig


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def found():
    """The distributions that an import would find, by normalized name."""
    all = {}
    for d in importlib.metadata.distributions():
        try:
            name = d.metadata["Name"]
            if name and d.version:
                all.setdefault(normal(name), (name, d))
        except Exception:  # a folder that only looks like one
            continue
    return all


def where(d):
    """The folder on the path that a distribution is in."""
    return os.path.realpath(str(d.locate_file("")))


def files(d):
    """Its files that are there, with what Python has made of them; None if nobody knows."""
    listed = d.files
    if listed is None:
        return None
    all = set()
    for f in listed:
        path = os.path.normpath(str(d.locate_file(f)))
        if not os.path.lexists(path) or os.path.isdir(path) and not os.path.islink(path):
            continue
        all.add(path)
        folder, base = os.path.split(path)
        stem, ending = os.path.splitext(base)
        if ending == ".py":
            cache = os.path.join(folder, "__pycache__")
            try:
                all.update(
                    os.path.join(cache, made) for made in os.listdir(cache)
                    if made.startswith(stem + ".") and made.endswith(".pyc")
                )
            except OSError:
                pass
    return sorted(all)


def main():
    asked = json.load(sys.stdin)
    paths = {k: sysconfig.get_path(k) for k in ("purelib", "platlib", "scripts", "data")}
    own = {os.path.realpath(paths["purelib"]), os.path.realpath(paths["platlib"])}
    all = found()
    answer = {
        "version": platform.python_version(),
        "executable": sys.executable,
        "paths": paths,
        "packages": [
            {"name": name, "version": d.version, "own": where(d) in own} for _, (name, d) in sorted(all.items())
        ],
        "files": {n: files(all[n][1]) for n in map(normal, asked.get("files") or []) if n in all},
    }
    json.dump(answer, sys.stdout)


main()
