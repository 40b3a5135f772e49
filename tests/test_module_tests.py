"""Each module has a test module named like it, `tests/FOLDER/test_NAME.py`, or stands in the map below."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

TESTED_IN = {
    "__main__": "commands/test_check",
    "aio/mailbox": "aio/test_topics",
    "aio/shared": "aio/test_client",
    "aio/websocket": "aio/test_client",
    "commands/serving/building": "commands/test_serve",
    "commands/serving/child": "commands/test_serve",
    "commands/serving/elsewhere": "commands/serving/test_options",
    "commands/serving/failing": "commands/test_serve",
    "commands/serving/logs": "commands/test_serve",
    "commands/serving/reloader": "commands/test_serve",
    "commands/serving/running": "commands/test_serve",
    "brokers/base": "brokers/test_contract",
    "brokers/local/broker": "brokers/test_local",
    "brokers/local/core": "brokers/test_local_topics",
    "brokers/local/home": "brokers/test_local_topics",
    "brokers/local/state": "brokers/test_local_topics",
    "brokers/local/sync": "brokers/test_local_topics",
    "brokers/local/topics": "brokers/test_local_topics",
    "brokers/redis/broker": "brokers/test_redis",
    "brokers/redis/connection": "brokers/test_redis",
    "brokers/redis/followers": "brokers/test_redis",
    "brokers/redis/jobs": "brokers/test_redis",
    "brokers/redis/logs": "brokers/test_redis",
    "brokers/redis/nodes": "brokers/test_redis",
    "brokers/redis/recovery": "brokers/test_redis",
    "brokers/redis/shards": "brokers/test_redis",
    "brokers/redis/topics": "brokers/test_redis",
    "brokers/redis/wire": "brokers/test_redis_wire",
    "brokers/redis/worker": "brokers/test_redis",
    "bufferpool": "test_bytebuffer",
    "bus/folder": "bus/test_bus",
    "bus/links": "bus/test_bus",
    "bus/question": "bus/test_bus",
    "bus/wire": "bus/test_bus",
    "client/connecting": "client/test_connect",
    "client/opening": "client/test_connect",
    "client/request": "client/test_connect",
    "client/retry": "client/test_reconnect",
    "client/subscription": "client/test_topics",
    "http/application": "http/test_connection",
    "http/exchange": "asgi/test_http",
    "http/preface": "http/test_proxies",
    "processes/worker": "processes/test_run",
    "protocol/assembly": "protocol/test_connection",
    "protocol/config": "protocol/test_connection",
    "protocol/metered": "protocol/test_rates",
    "reactor/hosting": "aio/test_inside",
    "reactor/interfaces": "reactor/test_loop",
    "reactor/states": "reactor/test_stream",
    "reactor/transports": "reactor/test_loop",
    "reactor/turn": "reactor/test_loop",
    "reactor/waits": "reactor/test_stepping_aside",
    "server/gate": "server/test_server",
    "server/routes": "topics/test_subprotocol",
    "server/serving": "aio/test_inside",
    "server/signals": "server/test_server",
    "session/backlog": "session/test_overflow",
    "session/delivering": "session/test_session",
    "session/policy": "session/test_overflow",
    "session/sending": "session/test_session",
    "session/writer": "session/test_websocket",
    "topics/lost": "topics/test_subprotocol",
    "topics/names": "topics/test_subscriptions",
    "topics/patterns": "topics/test_subscriptions",
    "topics/publication": "topics/test_subscriptions",
    "topics/recovery": "topics/test_subprotocol",
    "topics/requests": "topics/test_subprotocol",
}
"""Parts of one thing, which is tested as a whole."""

MODULES = sorted(
    path.relative_to(ROOT / "gows").with_suffix("").as_posix()
    for path in (ROOT / "gows").rglob("*.py")
    if path.name != "__init__.py"
)


def own_test(module: str) -> str:
    """The test module that is named like `module`."""
    folder, _, name = module.rpartition("/")
    return f"{folder}/test_{name}".lstrip("/")


@pytest.mark.parametrize("module", MODULES)
def test_each_module_has_its_tests(module: str) -> None:
    tests = own_test(module)
    if module in TESTED_IN:
        assert not (ROOT / "tests" / f"{tests}.py").exists(), "it has its own by now: take it out of the map"
        tests = TESTED_IN[module]
    assert (ROOT / "tests" / f"{tests}.py").exists()


def test_the_map_names_modules() -> None:
    assert TESTED_IN.keys() <= set(MODULES)
