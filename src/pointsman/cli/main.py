"""The ``pointsman`` command."""

from __future__ import annotations

import sys

from cyclopts import App

from pointsman import __version__
from pointsman.cli.calibrate import calibrate
from pointsman.cli.common import EXIT_BAD_INPUT, show_error
from pointsman.cli.compare import compare
from pointsman.cli.config import config_app
from pointsman.cli.demo import demo
from pointsman.cli.envoy_config import envoy_config
from pointsman.cli.epp import epp
from pointsman.cli.index import index_app
from pointsman.cli.indexer import indexer
from pointsman.cli.metrics import metrics_app
from pointsman.cli.plugins import plugins
from pointsman.cli.pods import pods
from pointsman.cli.replay import replay
from pointsman.cli.sim import sim
from pointsman.cli.simulate import simulate
from pointsman.cli.trace import trace_app
from pointsman.cli.tune import tune
from pointsman.cli.up import up
from pointsman.cli.version import version
from pointsman.cli.what_if import what_if
from pointsman.errors import PointsmanError

app = App(
    name="pointsman",
    help="Steer every prompt of an LLM fleet to the model server that will answer it soonest.",
    version=__version__,
    help_epilogue="Try it in a minute: `pointsman demo`. In front of your own servers: "
    "`pointsman up --endpoint http://10.0.0.1:8000 --endpoint http://10.0.0.2:8000`.",
)
app.command(demo)
app.command(up)
app.command(epp)
app.command(envoy_config, name="envoy-config")
app.command(sim)
app.command(simulate)
app.command(compare)
app.command(calibrate)
app.command(config_app)
app.command(index_app)
app.command(indexer)
app.command(metrics_app)
app.command(plugins)
app.command(pods)
app.command(trace_app)
app.command(replay)
app.command(tune)
app.command(what_if, name="what-if")
app.command(version)


def run() -> None:
    """Entry point: errors on purpose are one line and exit code 2, never a stack trace."""
    try:
        code = app(sys.argv[1:])
    except PointsmanError as error:
        show_error(error)
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
