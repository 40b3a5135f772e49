"""What every peer is told: `NAME_echo.py PORT [deflate | tls]`.

Each echoes what comes on `/`, and gives everybody there what comes on `/broadcast`, in the way its library has for it.
With `tls`, certificate and key are in the file that BENCH_CERTIFICATE names.
"""

import os
import ssl
import sys

PORT = int(sys.argv[1])
MODE = sys.argv[2] if len(sys.argv) > 2 else "plain"
DEFLATE = MODE == "deflate"
CERTIFICATE = os.environ["BENCH_CERTIFICATE"] if MODE == "tls" else None


def ssl_context() -> ssl.SSLContext | None:
    """None without TLS."""
    if CERTIFICATE is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)
    return context
