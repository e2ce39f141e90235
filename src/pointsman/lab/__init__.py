"""The lab: the live Director, plugins, index and ledger, driven by simulated engines under a manual clock.

For notebooks: ``simulate`` runs once, ``compare`` runs many side by side and judges them, ``RunResult.records()`` and
``Comparison.figures()`` are rows for data frames, ``write_page`` draws them.
"""

from pointsman.lab.compare import Comparison, compare, judged
from pointsman.lab.compare_specs import GivenWorkload, NamedWorkload, RunSpec, TraceWorkload
from pointsman.lab.html import write_page
from pointsman.lab.options import Fault, FleetOptions
from pointsman.lab.oracle import Achievable, achievable
from pointsman.lab.policies import POLICIES, policy_source
from pointsman.lab.report import Rung, as_json, rungs
from pointsman.lab.requests import FixedWorkload, LabRequest, Workload
from pointsman.lab.results import RunResult
from pointsman.lab.runner import simulate
from pointsman.lab.traces import open_trace
from pointsman.lab.workloads import WORKLOADS, make_workload

__all__ = [
    "POLICIES",
    "WORKLOADS",
    "Achievable",
    "Comparison",
    "Fault",
    "FixedWorkload",
    "FleetOptions",
    "GivenWorkload",
    "LabRequest",
    "NamedWorkload",
    "RunResult",
    "RunSpec",
    "Rung",
    "TraceWorkload",
    "Workload",
    "achievable",
    "as_json",
    "compare",
    "judged",
    "make_workload",
    "open_trace",
    "policy_source",
    "rungs",
    "simulate",
    "write_page",
]
