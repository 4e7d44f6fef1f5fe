"""For tests: a harness for services (`serve`, `record`, `fault`), and a conformance suite for drivers
(`messaging.testing.conformance`).
"""

from messaging.testing.faults import FAULTS, Fault, fault
from messaging.testing.harness import Recorded, ServedClient, record, serve

__all__ = ["FAULTS", "Fault", "Recorded", "ServedClient", "fault", "record", "serve"]
