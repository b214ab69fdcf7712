-- Takes the lock if it is free and nobody is before us; else waits for it, if asked to. Asked again by the
-- same owner, it says the same.
--
-- ARGV, behind the prelude's: 4 the value, 5 the time to live in milliseconds, 6 for how long we count as
-- waiting, in microseconds, or nothing not to wait.

local holder = redis.call('HGET', lock, 'owner')
if holder == owner then
  return { 'taken', redis.call('HGET', lock, 'token') }
end
local before = first()
if not holder and (not before or before == owner) then
  -- Above the last one, and above the clock: a server that has lost the last seconds, and the last token
  -- with them, gives none twice.
  local last = tonumber(redis.call('HGET', tokens, name) or 0) or 0
  local token = string.format('%.0f', math.max(last + 1, now))
  redis.call('HSET', tokens, name, token)
  redis.call('HSET', lock, 'owner', owner, 'token', token, 'value', ARGV[4])
  redis.call('PEXPIRE', lock, ARGV[5])
  redis.call('ZREM', queue, owner)
  redis.call('ZREM', alive, owner)
  return { 'taken', token }
end
if ARGV[6] == '' then
  return { 'held' }
end
if not redis.call('ZSCORE', queue, owner) then
  local last = redis.call('ZRANGE', queue, '-1', '-1', 'WITHSCORES')[2]
  redis.call('ZADD', queue, (tonumber(last or 0) or 0) + 1, owner)
end
redis.call('ZADD', alive, now + tonumber(ARGV[6]), owner)
-- When nobody is heard of any more, nothing is left of them.
local millis = math.ceil(tonumber(ARGV[6]) / 1000)
redis.call('PEXPIRE', queue, millis)
redis.call('PEXPIRE', alive, millis)
if before and before ~= owner then
  if not holder then
    wake(before)
  end
  return { 'behind' }
end
-- We are next, at the latest when its time is over.
return { 'next', redis.call('PTTL', lock) }
