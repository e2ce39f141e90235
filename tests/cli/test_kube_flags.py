from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from pointsman.app.kubernetes import KubeOptions
from pointsman.cli.common import endpoint_options
from pointsman.cli.kube_flags import KubeFlags
from pointsman.cli.main import run
from pointsman.errors import ConfigError


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_no_flag_no_kubernetes() -> None:
    assert KubeFlags().options() is None


def test_flags_to_options() -> None:
    flags = KubeFlags(pool_name="p", pool_namespace="n", kubeconfig=Path("k"), leader_election=True)
    assert flags.options() == KubeOptions(pool_name="p", pool_namespace="n", kubeconfig=Path("k"), leader_election=True)
    standalone = KubeFlags(endpoint_selector="app=vllm", endpoint_target_ports="8000, 8001").options()
    assert standalone == KubeOptions(selector="app=vllm", target_ports=(8000, 8001))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (KubeFlags(leader_election=True), "--leader-election needs a pool"),
        (KubeFlags(kubeconfig=Path("k")), "--kubeconfig needs a pool"),
        (KubeFlags(endpoint_selector="a=b", endpoint_target_ports="x"), "--endpoint-target-ports: 'x' is not a port"),
        (KubeFlags(endpoint_selector="a=b", endpoint_target_ports="0"), "--endpoint-target-ports: port 0"),
    ],
)
def test_flags_that_make_no_sense(flags: KubeFlags, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        flags.options()


def test_endpoints_come_from_one_side() -> None:
    kube = KubeOptions(pool_name="p")
    assert endpoint_options((), None, kube).kube is kube
    for urls, file in ((("http://127.0.0.1:1",), None), ((), Path("f"))):
        with pytest.raises(ConfigError, match="not both"):
            endpoint_options(urls, file, kube)


def test_the_command_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kubeconfig = str(tmp_path / "none")
    flags = ["--pool-name", "p", "--kubeconfig", kubeconfig, "--port", "0", "--admin-port", "0"]
    monkeypatch.setattr("sys.argv", ["pointsman", "epp", *flags])
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 2
    assert "no cluster is configured" in capsys.readouterr().err
