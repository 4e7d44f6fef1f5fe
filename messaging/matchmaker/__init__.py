"""Who serves what, and where: the discovery behind brokerless drivers.

`base` is the contract; each store is a module of its own, imported when a URL asks for it.
"""
