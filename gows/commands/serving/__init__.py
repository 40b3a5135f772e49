"""The parts of `gows serve`.

elsewhere    what the options of uvicorn are called here
options      the options: flags, environment variables, defaults, help
logs         what is logged, and where
environment  the file of --env-file
application  the application that MODULE:NAME means, and its kind
building     the server around it
failing      what is said when that cannot be, and the exit status
running      one process, or several
changes      files that were changed
reloader     a worker that is started anew after each change
child        that worker
"""
