src/a/a.py
