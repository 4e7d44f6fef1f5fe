"""From Kafka's error codes to errors of ours: what they mean for a message, and what cures them. Pure."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from messaging.errors import (
    AuthFailed,
    ConnectFailed,
    ConnectionLost,
    NoRoute,
    Overloaded,
    Rejected,
    TooLarge,
    TransportError,
)

__all__ = ["code_of", "explained", "is_login", "is_outage", "missing_topic", "of_connection", "of_message"]

_LOGIN = {
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.ILLEGAL_SASL_STATE,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
}
_DENIED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
_UNKNOWN = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION}
_LARGE = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}
_REFUSED = {
    KafkaError.INVALID_RECORD,
    KafkaError.POLICY_VIOLATION,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError._INVALID_ARG,
}
_PURGED = {KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT}
"""Also what lies in the queue may have been stored: the library puts back there what it has sent without an answer."""
_OUTAGE = {KafkaError._ALL_BROKERS_DOWN}


def code_of(error: BaseException | KafkaError) -> KafkaError | None:
    """The library's error inside an exception, where there is one."""
    if isinstance(error, KafkaError):
        return error
    inner = error.args[0] if isinstance(error, KafkaException) and error.args else None
    return inner if isinstance(inner, KafkaError) else None


def is_login(error: KafkaError) -> bool:
    """Whether the broker refused the login, so that trying again is of no use."""
    return error.code() in _LOGIN


def explained(text: str) -> str:
    """What the library says of a connection, with the options that cure what is wrong about TLS."""
    if "certificate verify failed" in text:
        return f"{text}; the certificate has to name this host, and an authority in tls_ca has to have signed it"
    if "alert" in text and "certificate" in text:
        return f"{text}; the broker wants another certificate of ours (options tls_cert and tls_key)"
    return text


def is_outage(error: KafkaError) -> bool:
    """Whether no broker is connected any more."""
    return error.code() in _OUTAGE


def missing_topic(topic: str, listens: bool) -> NoRoute:
    """The error of a topic that does not exist and shall not be created."""
    who = "the listener" if listens else "a notifier"
    first = "create it" if listens else "start a listener first, which creates it, or create it by hand"
    cure = "create_topics=listeners" if listens else "create_topics=all"
    return NoRoute(
        f"the Kafka topic {topic!r} does not exist, and {who} may not create it: {first} "
        f"(kafka-topics.sh --create --topic {topic}), or say {cure}"
    )


def of_connection(error: KafkaError, told: str = "") -> ConnectFailed:
    """Why no connection could be made. `told`: what the library last said about a broker."""
    if is_login(error):
        return AuthFailed(f"the Kafka broker refused the login: {_text(error)}")
    if error.code() in _DENIED:
        return AuthFailed(
            f"this user may not do that on the Kafka cluster: {_text(error)}; who sends needs WRITE on the topic, and "
            "IDEMPOTENT_WRITE on a cluster before 2.8"
        )
    if error.fatal():
        return ConnectFailed(f"the Kafka producer cannot go on, and another one takes its place: {_text(error)}")
    if is_outage(error) and not told:
        told = (
            "each connection was closed, or nobody answered, without a word; "
            "where that happens at every try, TLS (option tls) or a login is wanted"
        )
    return ConnectFailed(f"no Kafka broker could be reached: {told or _text(error)}")


def of_message(error: KafkaError, topic: str) -> TransportError:
    """Why a message was not taken, and what is known about it."""
    code = error.code()
    if code in _LARGE:
        return TooLarge(
            f"the message is larger than the Kafka topic {topic!r} takes (options max_body here, max.message.bytes of "
            f"the topic, message.max.bytes of the broker): {_text(error)}"
        )
    if code in _UNKNOWN:
        return missing_topic(topic, listens=False)
    if is_login(error):
        return AuthFailed(f"the Kafka broker refused the login: {_text(error)}")
    if code in _DENIED:
        return Rejected(f"this user may not write to the Kafka topic {topic!r}: {_text(error)}", retryable=False)
    if code == KafkaError._QUEUE_FULL:
        return Overloaded("the buffer of the Kafka client is full (option buffer)")
    if code in _REFUSED:
        return Rejected(f"the Kafka topic {topic!r} refused the message: {_text(error)}", retryable=False)
    if code in _PURGED:
        return ConnectionLost(f"the connection was closed before the message for {topic!r} was confirmed")
    if code == KafkaError._MSG_TIMED_OUT:
        return ConnectionLost(
            f"no Kafka broker has confirmed the message for {topic!r} in time (option send_timeout): {_text(error)}"
        )
    return ConnectionLost(f"the Kafka broker did not confirm the message for {topic!r}: {_text(error)}")


def _text(error: KafkaError) -> str:
    return f"{error.str()} ({error.name()})"
