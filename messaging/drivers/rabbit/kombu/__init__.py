"""kombu:// over RabbitMQ: kombu's client library under the engine of rabbit://."""
