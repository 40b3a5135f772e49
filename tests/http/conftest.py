from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.http_site import Site


@pytest.fixture
def make_site() -> Iterator[Callable[..., Site]]:
    """Sites that are closed in the end."""
    sites: list[Site] = []

    def make(*args: Any, **settings: Any) -> Site:
        sites.append(Site(*args, **settings))
        return sites[-1]

    yield make
    for site in sites:
        site.close()
