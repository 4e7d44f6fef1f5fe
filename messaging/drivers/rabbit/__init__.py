"""RabbitMQ over AMQP 0-9-1: the driver rabbit:// on pika, and the engine that it shares with kombu://."""
