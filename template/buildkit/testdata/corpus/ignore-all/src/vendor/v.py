src/vendor/v.py
