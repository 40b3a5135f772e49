"""Django with Channels: pages, a WebSocket with a group, a stream, and what goes on after an answer.

    python examples/channels_app.py [ADDRESS]        # "127.0.0.1:8080" unless given; needs `pip install channels`

It knows nothing of gows, and any ASGI server serves it. Django has no lifespan, and is served without.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

import gows

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=secrets.token_hex(),
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
)
django.setup()
pages = get_asgi_application()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402 - they want settings
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402

done: list[str] = []
tasks: set[asyncio.Task[None]] = set()


async def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello from Django", content_type="text/plain")


def upper(request: HttpRequest) -> HttpResponse:  # a plain function: Django calls it in a thread
    return HttpResponse(request.body.decode().upper(), content_type="text/plain")


async def count(request: HttpRequest) -> StreamingHttpResponse:
    async def lines() -> AsyncIterator[str]:
        for number in range(int(request.GET.get("upto", 3))):
            yield f"{number}\n"

    return StreamingHttpResponse(lines(), content_type="text/plain")


async def later(request: HttpRequest) -> HttpResponse:
    what = request.GET["what"]

    async def work() -> None:
        done.append(what)

    task = asyncio.create_task(work())
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return JsonResponse({"accepted": what}, status=202)


async def see_done(request: HttpRequest) -> HttpResponse:
    return JsonResponse(done, safe=False)


urlpatterns = [
    path("", page),
    path("upper", upper),
    path("count", count),
    path("later", later),
    path("done", see_done),
]


class Talk(AsyncWebsocketConsumer):
    """One connection. What anybody says goes to all by a group, as it would over several processes."""

    async def connect(self) -> None:
        self.name = parse_qs(self.scope["query_string"].decode()).get("name", [""])[0]
        if not self.name:
            await self.close()  # before accept: 403
            return
        await self.channel_layer.group_add("talk", self.channel_name)
        await self.accept("chat" if "chat" in self.scope["subprotocols"] else None)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if text_data == "bye":
            await self.close(4000, "bye, " + self.name)
        else:
            await self.channel_layer.group_send("talk", {"type": "said", "text": f"{self.name}: {text_data}"})

    async def said(self, event: dict[str, Any]) -> None:
        """Pass on what somebody said."""
        await self.send(event["text"])

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard("talk", self.channel_name)


app = ProtocolTypeRouter({"http": pages, "websocket": URLRouter([path("talk", Talk.as_asgi())])})


def main(address: str = "127.0.0.1:8080") -> None:
    """Serve until Ctrl-C."""
    server = gows.Server(asgi=app)
    server.listen_and_serve(address, ready=lambda: print(f"serving on {server.addresses[0]}", flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:2])
