"""HTTP/1.1 on the reactor: requests, responses, routes, WSGI.

files        files as bodies, and paths below a folder
multipart    forms with files
forms        fields of forms, queries and cookies
proxies      whom a trusted proxy forwards for
request      Request
response     Response
router       patterns of paths, and the views they lead to
static       a folder of files as routes
exchange     a request that is answered in the loop's thread while its body comes
wsgi         a WSGI application as a view
application  what answers the requests of a connection
outlet       the body of an answer that one thread makes faster than the peer reads
connection   HttpConnection: requests in, answers out
preface      the PROXY header before all of that
"""
