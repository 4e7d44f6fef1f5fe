"""RPC (call, cast, fanout) and notifications over interchangeable transports.

This is the public face; everything else is reached through it, through `messaging.rpc`, `messaging.notify` and
`messaging.aio`. Importing it imports no driver and no client library.
"""
