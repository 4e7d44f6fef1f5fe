"""pika as the protocol engine of rabbit://; nothing else here imports pika."""
