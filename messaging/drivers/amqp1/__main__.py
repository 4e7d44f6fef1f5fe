"""`python -m messaging.drivers.amqp1`: what the installed proton can do."""

import sys

from messaging.drivers.amqp1.installed import report

sys.stdout.write(f"{report()}\n")
