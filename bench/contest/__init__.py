"""The parts of ``bench/policies.py`` and ``bench/policy_traps.py``: cells, figures over seeds, aims and workloads."""
