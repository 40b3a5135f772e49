"""HTTP/1.1 on the reactor: requests, responses, routes, WSGI."""
