-- Says what becomes of a message that was taken.
--
-- ARGV, behind the group's: 4 its id, 5 its key, 6 which delivery it is, 7 what becomes of it, 8 after how
-- many milliseconds, then, of a dead letter: 9 the topic it goes to, 10 how many messages that takes, 11 how
-- long it retains them, then the entry's fields.

-- After so long a dead letter that found no room is tried again.
local NO_ROOM = 1000

local id, key, deliveries, verdict, after = ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8])
redis.call('ZREM', due, '')
-- Whoever was too slow finds it delivered again, or settled by another.
local pending = redis.pcall('XPENDING', stream, group, id, id, '1')
if pending.err or not pending[1] or pending[1][4] ~= deliveries then
  return 'late'
end

local function later(millis)
  redis.call('ZADD', due, now + millis, member(id, key))
end

-- It does not count as a delivery.
local function uncount()
  redis.call('XCLAIM', stream, group, CONSUMER, '0', id, 'RETRYCOUNT', deliveries - 1, 'JUSTID')
end

if verdict == 'done' then
  done(id, key)
elseif verdict == 'retry' then
  later(after)
  release(id, key)
  wake(topic, group)
elseif verdict == 'dead' then
  local fields = {}
  for i = 12, #ARGV do
    fields[i - 11] = ARGV[i]
  end
  if not add(ARGV[9], tonumber(ARGV[10]), tonumber(ARGV[11]), fields) then
    uncount()
    later(NO_ROOM)
    release(id, key)
    return 'full'
  end
  done(id, key)
elseif verdict == 'extend' then
  later(after)
else
  -- It goes back, and keeps its key: those behind it wait.
  if verdict == 'unhandled' then
    uncount()
  end
  later(0)
  wake(topic, group)
end
return 'fine'
