"""For tests: a conformance suite for drivers (`messaging.testing.conformance`), and a harness for services."""
