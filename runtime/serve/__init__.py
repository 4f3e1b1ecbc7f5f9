"""``st3 serve``: artifacts behind the open inference protocol (KServe v2) over HTTP. Nothing else imports it.

The front (one process, asyncio) reads requests, forms batches and answers; worker processes run the engines, so that
what kills an engine does not kill the server.
"""
