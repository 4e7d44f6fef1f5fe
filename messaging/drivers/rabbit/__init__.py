"""RabbitMQ and its like over AMQP 0-9-1: the engine of rabbit:// and kombu://. It imports neither client library."""
