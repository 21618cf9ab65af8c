other/o.py
