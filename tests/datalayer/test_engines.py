from __future__ import annotations

from pathlib import Path

import pytest

from pointsman.datalayer.engines import ENGINES, SGLANG, TRITON, TRITON_TRTLLM, TRTLLM, VLLM, detect_engine, underscored

DATA = Path(__file__).parents[1] / "data"


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("captures/metrics_a_loaded_0", "vllm"),
        ("metrics/sglang_dp2", "sglang"),
        ("metrics/trtllm_serve", "trtllm-serve"),
        ("metrics/triton_trtllm", "triton-tensorrt-llm"),
        ("metrics/triton", "triton"),
        ("metrics/llama_cpp", "llama.cpp"),
        ("metrics/tgi", "tgi"),
    ],
)
def test_pages_are_recognised(page: str, name: str) -> None:
    engine = detect_engine((DATA / f"{page}.txt").read_text())
    assert engine is not None
    assert engine.name == name


def test_detection() -> None:
    assert detect_engine("sglang:token_usage 1") is SGLANG
    assert detect_engine("# HELP vllm:x y\n  trtllm_x 1") is TRTLLM
    for page in ("", "# vllm:a 1\n", 'a{b="vllm:"} 1', "<html>vllm:</html>", "xvllm:a 1"):
        assert detect_engine(page) is None


def test_engines_inside_of_triton_go_first() -> None:
    assert detect_engine("nv_inference_count 1\nnv_trt_llm_request_metrics 1") is TRITON_TRTLLM
    assert detect_engine("nv_inference_count 1\nvllm:num_requests_running 1") is VLLM
    assert detect_engine("nv_inference_count 1\n") is TRITON


def test_names_without_colons() -> None:
    assert detect_engine("vllm_num_requests_running 1") is VLLM
    assert detect_engine("vllm_num_requests_running 1\nsglang:token_usage 1") is SGLANG
    other = underscored(VLLM)
    assert other is not None
    assert other.name == "vllm"
    assert other.names() == {name.replace(":", "_") for name in VLLM.names()}
    assert underscored(TRTLLM) is None


def test_names_are_said_once() -> None:
    said = [name for engine in ENGINES for name in (engine.name, *engine.aliases)]
    assert len(set(said)) == len(said)


def test_names_without_histograms() -> None:
    assert VLLM.names() - VLLM.names(histograms=False) == {
        f"vllm:{name}_seconds_{part}"
        for name in ("time_to_first_token", "inter_token_latency", "time_per_output_token")
        for part in ("bucket", "count", "sum")
    }
