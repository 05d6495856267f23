"""An endpoint picker with requests in its queue."""

from __future__ import annotations

from aiohttp import web

from tests.fakes.pods import pages


class Gateway:
    """The metrics of an endpoint picker with requests in its queue."""

    def __init__(self) -> None:
        self.waiting = 0

    async def handle(self, _: web.Request) -> web.Response:
        name = "inference_extension_flow_control_queue_size"
        return web.Response(
            text=f"# TYPE {name} gauge\n"
            f'{name}{{target_model_name="{pages.MODEL}"}} {self.waiting}\n'
        )
