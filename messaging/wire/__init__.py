"""Wire formats: pure functions between bytes and the few bodies that the patterns exchange. They know nothing of
transports.
"""
