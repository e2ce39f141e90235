"""Parts of ``bench/index.py``. Nothing here imports pointsman before it is needed: RadixTree's process has none."""
