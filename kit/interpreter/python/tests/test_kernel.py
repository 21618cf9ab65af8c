"""A real kernel with the extension, as the code interpreter starts it."""

import queue
import unittest

from jupyter_client.manager import start_new_kernel

CELL = """
import math
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display

display(pd.DataFrame({"n": [1, math.nan, math.inf], "when": pd.to_datetime(["2024-01-02", None, None])}))
plt.plot([1, 2, 3], [math.nan, 2, 3], label="gap")
plt.title("a line")
plt.show()
plt.pie([1, 3], labels=["a", "b"])
_ = plt.title("a pie")
plt.close(plt.figure())
{"value": [math.nan, (1, 2)]}
"""


class Kernel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.manager, cls.client = start_new_kernel(extra_arguments=["--ext=soulbox_display"])
        cls.addClassCleanup(cls.manager.shutdown_kernel, now=True)
        cls.addClassCleanup(cls.client.stop_channels)

    def run_cell(self, code):
        """The messages of a cell, but for those on its state."""
        asked = self.client.execute(code, stop_on_error=False)  # or an error ends what follows soon
        messages = []
        while True:
            try:
                message = self.client.get_iopub_msg(timeout=120)
            except queue.Empty:
                self.fail(f"no end of the cell; until then {messages}")
            if message["parent_header"].get("msg_id") != asked:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return messages
            if kind not in ("status", "execute_input"):
                messages.append((kind, content))

    def test_messages_carry_data_and_charts(self):
        messages = self.run_cell(CELL)
        self.assertEqual([kind for kind, _ in messages].count("stream"), 0, messages)
        displays = [content["data"] for kind, content in messages if kind == "display_data"]
        (result,) = [content["data"] for kind, content in messages if kind == "execute_result"]
        frame, line, pie = displays
        self.assertEqual(frame["e2b/data"], {"n": [1, None, None], "when": ["2024-01-02T00:00:00", None, None]})
        self.assertEqual(line["e2b/chart"]["title"], "a line")
        self.assertEqual(line["e2b/chart"]["elements"], [{"label": "gap", "points": [[1, None], [2, 2], [3, 3]]}])
        self.assertEqual(pie["e2b/chart"]["elements"][1], {"label": "b", "angle": 270, "radius": 1})
        self.assertLessEqual({"image/png", "text/plain"}, set(line) & set(pie))
        self.assertEqual(result["application/json"], {"value": [None, [1, 2]]})

    def test_errors_have_no_colours(self):
        for code in ("1/0", "1 +", "def f(): f()\nf()"):
            messages = self.run_cell(code)
            self.assertEqual(messages[-1][0], "error")
            self.assertNotIn("\x1b", "\n".join(messages[-1][1]["traceback"]))
