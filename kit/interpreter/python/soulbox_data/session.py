"""What analyze does in a kernel, before and after the client's code.

Each function publishes one answer, as a MIME type that nobody else uses; the code
interpreter reads it and shows it to nobody.
"""

import json
import os
import resource
import sys
import threading
import time

from soulbox_display import tables

from . import Refused
from .load import MAX_DATASETS, Dataset

ANSWER = "application/vnd.soulbox.data+json"
MAX_FRAMES = 50
PREVIEW_ROWS = 10
PREVIEW_COLUMNS = 100
MAX_PREVIEWS = 4 << 20  # characters of all of them

PAGE = os.sysconf("SC_PAGE_SIZE")


def begin(shell, request):
    """Loads the datasets as variables, and begins to measure."""
    answer = {}
    began = time.perf_counter()
    try:
        asked = request["datasets"]
        if len(asked) > MAX_DATASETS:
            raise Refused(f"at most {MAX_DATASETS} datasets can be analyzed at once")
        rows = 0
        names = []
        for one in asked:
            dataset = Dataset(one)
            frame = dataset.load()
            shell.user_ns[dataset.name] = frame
            names.append(dataset.name)
            rows += len(frame)
        answer = {"rows": rows}
        shell.soulbox_analysis = Meter(names, rows, time.perf_counter() - began)
    except Refused as e:
        answer = {"refused": str(e), "status": e.status}
    publish(shell, answer)


def end(shell):
    """Tells what the code has made, and what that took."""
    meter = shell.__dict__.pop("soulbox_analysis", None)
    answer = {"metrics": meter.stop() if meter else {}}
    answer["data"] = frames(shell, meter.names if meter else [])
    publish(shell, answer)


def publish(shell, answer):
    shell.display_pub.publish({ANSWER: answer})


class Meter:
    """Measures time and memory of what runs between its making and stop."""

    def __init__(self, names, rows, load_seconds):
        self.names = names
        self.rows = rows
        self.load_seconds = load_seconds
        self.peak = resident()
        self.highest = highest()
        self.ended = threading.Event()
        # The highest figure of the system is of the process's whole life: it only
        # says something when it grows. Else what is seen now and then must do.
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        self.cpu = cpu()
        self.began = time.perf_counter()

    def watch(self):
        while not self.ended.wait(0.02):
            self.peak = max(self.peak, resident())

    def stop(self):
        seconds, used = time.perf_counter() - self.began, cpu() - self.cpu
        self.ended.set()
        self.thread.join()
        peak = max(self.peak, resident())
        if highest() > self.highest:
            peak = highest()
        return {
            "seconds": seconds, "cpu_seconds": used, "peak_memory_bytes": peak, "rows": self.rows, "load_seconds": self.load_seconds,
        }  # fmt: skip


def cpu():
    """CPU time of the process and of those that it has waited for."""
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


def resident():
    try:
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * PAGE
    except (OSError, ValueError, IndexError):
        return 0


def highest():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def frames(shell, first):
    """Descriptions of the DataFrames among the variables, the datasets first."""
    pandas = sys.modules.get("pandas")
    if pandas is None:
        return []
    space = shell.user_ns
    names = [n for n in first if n in space]
    names += [n for n in list(space) if n not in names and not n.startswith("_") and n not in shell.user_ns_hidden]
    found = [(n, space[n]) for n in names if isinstance(space[n], pandas.DataFrame)]
    out, left = [], MAX_PREVIEWS
    for name, frame in found[:MAX_FRAMES]:
        about = describe(name, frame)
        left -= len(json.dumps(about["preview"]))
        if left < 0:
            about["preview"] = {}
        out.append(about)
    return out


def describe(name, frame):
    """What is said about a DataFrame: its columns and types, and its first rows."""
    some = frame.iloc[:PREVIEW_ROWS, :PREVIEW_COLUMNS]
    try:
        preview, _ = tables.columns(tables.find(some))
    except Exception:  # what cells hold is the client's, and may do anything
        preview = {}
    labels = tables.distinct([tables.clean(tables.name(c)) for c in frame.columns[:PREVIEW_COLUMNS]])
    return {
        "name": name,
        "rows": len(frame),
        "columns": labels,
        "dtypes": [str(t) for t in frame.dtypes.iloc[:PREVIEW_COLUMNS]],
        "columns_total": frame.shape[1],
        "memory_bytes": int(frame.memory_usage(index=True, deep=False).sum()),
        "preview": preview,
    }
