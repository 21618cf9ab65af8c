"""One small task with each library that the template data-science promises.

Each prints its line; what is wrong raises.
"""

import io
import json
import subprocess
import sys

import numpy as np

random = np.random.default_rng(1)
x = random.normal(size=(200, 2))
y = 3 * x[:, 0] - x[:, 1] + 2


def say(name, what):
    print(f"{name}: {what}")


# What is fitted is known, so that a library that computes wrong is found.
solution, *_ = np.linalg.lstsq(np.c_[x, np.ones(200)], y, rcond=None)
say("numpy", [round(float(c), 6) for c in solution])

import pandas as pd

df = pd.DataFrame({"g": ["a", "b"] * 100, "x": x[:, 0], "y": y})
df["n"] = range(200)
say("pandas", df.groupby("g").n.sum().to_dict())

from scipy import optimize

say("scipy", round(float(optimize.brentq(lambda v: v * v - 2, 0, 2)), 6))

from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import train_test_split

fit = LinearRegression().fit(x, y)
train_x, test_x, train_y, test_y = train_test_split(x, y > 2, random_state=1)
score = RandomForestClassifier(20, random_state=1).fit(train_x, train_y).score(test_x, test_y)
say("scikit-learn", [round(float(c), 6) for c in fit.coef_] + [score > 0.8])

import matplotlib.pyplot as plt

png = io.BytesIO()
plt.plot(df.n, df.y)
plt.title("Grüße")
plt.savefig(png, format="png")
say("matplotlib", png.getvalue()[1:4].decode())

import seaborn as sns

axes = sns.regplot(df, x="x", y="y")
say("seaborn", [axes.get_xlabel(), axes.get_ylabel()])

import plotly.express as px

figure = json.loads(px.scatter(df, x="x", y="y", color="g").to_json())
say("plotly", [t["name"] for t in figure["data"]])

import polars as pl

say("polars", pl.from_pandas(df).lazy().filter(pl.col("n") > 9).group_by("g").agg(pl.col("n").sum()).sort("g").collect().rows())

import pyarrow as pa
import pyarrow.parquet as pq

pq.write_table(pa.Table.from_pandas(df), "/tmp/df.parquet")
say("pyarrow", [pq.read_table("/tmp/df.parquet").num_rows, pd.read_parquet("/tmp/df.parquet").equals(df)])

import duckdb

say("duckdb", duckdb.sql("select g, sum(n)::int from '/tmp/df.parquet' group by g order by g").fetchall())

import statsmodels.formula.api as smf

model = smf.ols("y ~ a + b", pd.DataFrame({"a": x[:, 0], "b": x[:, 1], "y": y})).fit()
say("statsmodels", [round(float(c), 6) for c in model.params])

df.to_excel("/tmp/df.xlsx")
say("openpyxl", pd.read_excel("/tmp/df.xlsx").shape)

from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell()
shell.run_cell("v = !echo $((6 * 7))")
say("ipython", list(shell.user_ns["v"]))

import nbformat

notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(6 * 7)")])
nbformat.write(notebook, "/tmp/n.ipynb")
run = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "notebook", "--execute", "--stdout", "/tmp/n.ipynb"]
ran = nbformat.reads(subprocess.run(run, check=True, capture_output=True, text=True).stdout, 4)
say("jupyter", ran.cells[0].outputs[0].text)

lab = subprocess.run([sys.executable, "-m", "jupyter", "lab", "--version"], check=True, capture_output=True, text=True).stdout
say("jupyterlab", lab.split(".")[0])
