from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.asgi_site import WAYS, AsgiSite

MakeSite = Callable[..., AsgiSite]


@pytest.fixture(params=WAYS)
def serve(request: pytest.FixtureRequest) -> MakeSite:
    """Make an AsgiSite of an application, in each way of serving."""

    def make(app: object, **settings: object) -> AsgiSite:
        return AsgiSite(app, request.param, **settings)  # type: ignore[arg-type]

    return make
