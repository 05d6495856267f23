"""What has a page, by names that no model server has: a gateway, or a router."""

from __future__ import annotations

import re

_GATEWAY = (
    r"llm_d_(?:router_)?epp|llm_d_inference_scheduler|inference_(?:extension|objective|model|pool)"
    r"|dynamo_frontend|agentgateway|gen_ai_(?:server|client)"
)
_BEGINS = r"^[ \t]*(?:\w+_)?(?:"

GATEWAY = re.compile(rf"{_BEGINS}{_GATEWAY}|controller_runtime)_", re.MULTILINE)
"""A series that a gateway shows before its first request; a picker runs as a controller."""

_GATEWAY_ALONE = re.compile(rf"{_BEGINS}{_GATEWAY})_", re.MULTILINE)
_ROUTER = re.compile(rf"{_BEGINS}sgl_router|smg|vllm_router)_", re.MULTILINE)
"""SGLang's router by its older and its newer name, and vLLM's."""


def no_server(text: str) -> str:
    """What has a page that is no model server's, and the fix; empty where nothing tells."""
    if _GATEWAY_ALONE.search(text):
        return (
            "metrics of an endpoint picker or another gateway, which is no model server: name its URL by"
            " --gateway-metrics, and let the variant's scale target be the servers behind it"
        )
    if _ROUTER.search(text):
        return (
            "metrics of a router, which is no model server and whose requests are those of the servers"
            " behind it: let the variant's scale target be these servers"
        )
    return ""
