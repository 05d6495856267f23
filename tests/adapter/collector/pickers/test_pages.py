"""Pages of gateways that are no endpoint pickers: what they count, and by which model."""

from __future__ import annotations

import pytest

from adapter.collector.gateway import GatewayWindow
from adapter.collector.pickers import pages
from adapter.collector.promql import GatewayCount

ENVOY = """# TYPE gen_ai_client_token_usage_token histogram
gen_ai_client_token_usage_token_sum{{{of},gen_ai_token_type="input"}} 8100
gen_ai_client_token_usage_token_count{{{of},gen_ai_token_type="input"}} {served}
# TYPE gen_ai_server_request_duration_seconds histogram
gen_ai_server_request_duration_seconds_bucket{{{of},le="+Inf"}} {served}
gen_ai_server_request_duration_seconds_sum{{{of}}} 12.5
gen_ai_server_request_duration_seconds_count{{{of}}} {served}
gen_ai_server_request_duration_seconds_count{{{failed}}} 3
"""
AGENT = """# TYPE agentgateway_gen_ai_server_request_duration histogram
agentgateway_gen_ai_server_request_duration_sum{{{of}}} 12.5
agentgateway_gen_ai_server_request_duration_count{{{of}}} {served}
agentgateway_gen_ai_server_request_duration_bucket{{{of},le="+Inf"}} {served} # {{trace_id="7f"}} 0.4
agentgateway_gen_ai_server_request_duration_count{{{failed}}} 3
# TYPE agentgateway_requests counter
agentgateway_requests_total{{backend="team/llama",method="POST",status="200"}} 999
# EOF
"""
OF = (
    'gen_ai_operation_name="chat",gen_ai_request_model="support",gen_ai_response_model="meta/llama"'
)
FAILED = (
    'gen_ai_operation_name="chat",gen_ai_request_model="meta/llama",gen_ai_response_model="unknown"'
)


@pytest.mark.parametrize("prefix", ["", "mesh_"])
@pytest.mark.parametrize("text", [ENVOY, AGENT], ids=["envoy-ai-gateway", "agentgateway"])
def test_requests_count_by_the_model_that_answered(text: str, prefix: str) -> None:
    """A request for an alias counts for the model that the server names, one that failed as turned away."""
    written = text.format(of=OF, failed=FAILED, served=40)
    written = written.replace("\ngen_ai_", f"\n{prefix}gen_ai_").replace(
        "\nagentgateway_", f"\n{prefix}agentgateway_"
    )
    page = pages.read(written, "http://gateway/metrics")
    assert page.of_gateway
    assert (page.requests, page.rejected) == ({"meta/llama": 40.0}, {"meta/llama": 3.0})
    assert (page.queue, page.unnamed) == ({}, None)
    assert page.load("team").in_flight == {}


@pytest.mark.parametrize("text", [ENVOY, AGENT], ids=["envoy-ai-gateway", "agentgateway"])
def test_a_gateway_that_never_names_who_answered_counts_all(text: str) -> None:
    """Where no series has the label, its absence says nothing of a failure."""
    of = 'gen_ai_request_model="meta/llama"'
    page = pages.read(
        text.format(of=of, failed=f'{of},code="500"', served=40), "http://gateway/metrics"
    )
    assert (page.requests, page.rejected) == ({"meta/llama": 43.0}, {})


def test_their_requests_are_a_rate() -> None:
    """Growth of the counter over the window, as that of a picker."""
    window = GatewayWindow(window_seconds=60)
    for at in range(10):
        text = AGENT.format(of=OF, failed=FAILED, served=40 + 20 * at)
        count = pages.read(text, "http://g/metrics").requests["meta/llama"]
        counts = [GatewayCount(namespace="team", model="meta/llama", requests=count)]
        window.add("http://g/metrics", counts, now=10.0 * at)
    assert window.rates(now=90.0).rps == {("team", "meta/llama"): pytest.approx(2.0)}


def test_what_a_picker_counts_too_counts_once() -> None:
    """A page with both, as of a proxy that merges them: the picker's, which has what it forwards."""
    both = ENVOY.format(of=OF, failed=FAILED, served=40)
    both += 'llm_d_epp_request_total{model_name="meta/llama",target_model_name="meta/llama"} 45\n'
    assert pages.read(both, "http://gateway/metrics").requests == {"meta/llama": 45.0}
