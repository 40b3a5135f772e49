"""Worker processes: a supervisor and N servers on one port, so that all cores work.

cpus         how many workers the CPUs that are granted to us can use
listening    the sockets: made by the supervisor, inherited by the workers, outliving each of them
channel      what the supervisor and a worker tell each other
interpreter  the interpreter's settings in a process that serves only
worker       makes its server, and serves
supervisor   starts, watches, replaces and ends workers
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
from collections.abc import Callable

from gows.errors import UsageError
from gows.options import check_plain_function, check_seconds
from gows.processes.cpus import usable_cpus
from gows.processes.listening import Listening, Place
from gows.processes.supervisor import StartFailed, Supervisor
from gows.processes.worker import AppFactory, Job
from gows.reactor import live_loops
from gows.reactor.address import SocketAddress

logger = logging.getLogger("gows")


def run(
    app_factory: AppFactory | str,
    address: Place | list[Place] = ":8080",
    *,
    processes: int | str = "auto",
    timeout: float = 5.0,
    drain: float | None = None,
    not_ready: float | None = None,
    start_timeout: float = 60.0,
    ready: Callable[[list[SocketAddress]], object] | None = None,
    backlog: int = 4096,
    mode: int | None = None,
) -> None:
    """Serve with several processes on one port, until SIGTERM or SIGINT. To be called in the main thread of a program
    that has started nothing: its process becomes the supervisor, and forks the workers.

    - `app_factory`: called in each worker, returns its `gows.Server`, which is not started yet. Or a string,
      "module:name", of such a function or of a Server: the module is imported in the worker, so a rolling restart loads
      it anew.
    - `address`: as for `Server.listen`, or a list of such; port 0 takes a free one, the same for all.
    - `processes`: how many; "auto": one for each CPU that this process may use.
    - `timeout`, `drain`, `not_ready`: seconds; workers end as `Server.stop(timeout, drain=drain, not_ready=not_ready)`
      does, and are killed 5 s after that. In a rolling restart `not_ready` does not count: others accept already.
    - `start_timeout`: seconds until a worker that has not become ready is killed.
    - `ready(addresses)`: called once, in the supervisor, when all workers accept: the place to print the address.
    - `backlog`, `mode`: the length of a listen queue; who may connect to a Unix-domain socket.

    The workers' servers are joined by a bus (`Server.join`), answer `/-/live` and `/-/ready`, and may open as many
    descriptors as the hard limit allows; `max_connections` is for each. What `app_factory` has made is set aside from
    collections of garbage (gc.freeze), and threads give up the interpreter lock after half a millisecond
    (sys.setswitchinterval). A worker that dies is replaced, at first at once, then after 0.5 s, doubling to 30 s.
    SIGHUP replaces all, one at a time, each once its successor is ready. SIGTERM and SIGINT end all in order, a second
    signal at once.

    Returns after that. Raises OSError when the address cannot be had, ValueError and TypeError for arguments that
    cannot be, UsageError in another thread and beside a loop that runs; SystemExit(1), after the error was logged, when
    no worker has become ready and one fails; KeyboardInterrupt at a second signal.
    """
    count = usable_cpus() if processes == "auto" else processes
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f'processes must be 1 or more, or "auto", not {processes!r}')
    if isinstance(app_factory, str):
        module, colon, name = app_factory.partition(":")
        if not (module and colon and name):
            raise ValueError(f'app_factory as a string is "module:name", not {app_factory!r}')
    elif not callable(app_factory):
        raise TypeError(f"app_factory must be callable, or a string, not {type(app_factory).__name__}")
    else:
        check_plain_function("app_factory", app_factory)
    if ready is not None:
        check_plain_function("ready", ready)
    for key, value in (("timeout", timeout), ("start_timeout", start_timeout)):
        check_seconds(key, value, optional=False)
    check_seconds("drain", drain)
    check_seconds("not_ready", not_ready)
    if threading.current_thread() is not threading.main_thread():
        raise UsageError("run() handles signals: call it in the main thread")
    if any(loop.running for loop in live_loops()):
        raise UsageError("run() forks, which a running loop does not survive: call it before you start any")
    if threading.active_count() > 1:
        logger.warning("run() forks, and this process has threads already: they do not go on in the workers")
    listening = Listening(address if isinstance(address, list) else [address], count, backlog=backlog, mode=mode)
    folder = tempfile.mkdtemp(prefix="gows-")
    try:
        Supervisor(Job(app_factory, folder, timeout, drain, start_timeout, not_ready), listening, ready).run()
    except StartFailed:
        raise SystemExit(1) from None
    finally:
        listening.close()
        shutil.rmtree(folder, ignore_errors=True)
