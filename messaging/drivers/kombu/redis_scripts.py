"""What redis does in one step, in its own language: taking messages, giving them back, keeping them.

kombu pops a message from its queue first and notes it down as unsettled afterwards, so one that is on its way to a
connection that breaks in between is lost. Here both are one script. Whatever is taken stands in the hash UNACKED by a
tag that the taker has chosen, as "expiry of its queue in ms, queue, message", and in the sorted set INDEX by the time
of redis itself, so that the clocks of the machines do not matter. Who holds it renews that time; when it is too old,
anybody gives it back.

A message that is given back says at its very beginning which attempt it will be, `{"attempt": 2, "body": ...`: written
in front, because taking JSON apart and putting it together again in Lua would change numbers and empty lists in it.
"""

from __future__ import annotations

__all__ = ["ACCEPT", "GIVE_BACK", "INDEX", "RENEW", "TAKE", "UNACKED"]

UNACKED = "messaging:unacked"
INDEX = "messaging:unacked:index"

_NOW = "local now = redis.call('TIME'); now = tonumber(now[1]) + tonumber(now[2]) / 1e6\n"

TAKE = (
    _NOW
    + """
local taken = {}
for i = 1, tonumber(ARGV[1]) do
    local message = redis.call('RPOP', KEYS[1])
    if not message then break end
    local tag = ARGV[2] .. i
    redis.call('HSET', KEYS[2], tag, ARGV[3] .. '\\n' .. KEYS[1] .. '\\n' .. message)
    redis.call('ZADD', KEYS[3], now, tag)
    taken[i] = message
end
return taken
"""
)
"""KEYS: queue, UNACKED, INDEX; ARGV: how many, how their tags begin, expiry of the queue. Returns the messages; the
n-th one's tag ends in n."""

ACCEPT = """
local known = {}
for i = 1, #ARGV do
    known[i] = redis.call('HDEL', KEYS[1], ARGV[i])
    redis.call('ZREM', KEYS[2], ARGV[i])
end
return known
"""
"""KEYS: UNACKED, INDEX; ARGV: tags. Returns 1 for each that was there, else 0."""

GIVE_BACK = (
    _NOW
    + """
local tags = {}
if ARGV[1] ~= '' then
    tags = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[1]), 'LIMIT', 0, 100)
end
for i = 2, #ARGV do tags[#tags + 1] = ARGV[i] end
local given = 0
-- What was taken first goes in last, to be the next one out.
for i = #tags, 1, -1 do
    local noted = redis.call('HGET', KEYS[1], tags[i])
    if noted then
        local expiry, queue, message = string.match(noted, '^(%d+)\\n([^\\n]*)\\n(.*)$')
        local attempt, rest = string.match(message, '^{"attempt": (%d+), (.*)$')
        if not attempt then attempt, rest = 1, string.sub(message, 2) end
        redis.call('RPUSH', queue, '{"attempt": ' .. (tonumber(attempt) + 1) .. ', ' .. rest)
        if expiry ~= '0' then redis.call('PEXPIRE', queue, expiry) end
        redis.call('HDEL', KEYS[1], tags[i])
        given = given + 1
    end
    redis.call('ZREM', KEYS[2], tags[i])
end
return given
"""
)
"""KEYS: UNACKED, INDEX; ARGV: seconds, and what is older is given back, or nothing; then tags. Returns how many."""

RENEW = (
    _NOW
    + """
for i = 1, #ARGV do redis.call('ZADD', KEYS[1], 'XX', now, ARGV[i]) end
"""
)
"""KEYS: INDEX; ARGV: tags."""
