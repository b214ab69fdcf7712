-- What all scripts share.
--
-- KEYS[1] is the lock: a hash with its owner, its token and its value, which Redis drops when its time is
-- over. ARGV[1] is what all keys begin with, ARGV[2] the lock's name with its namespace, ARGV[3] an owner:
-- one attempt to get the lock. The other keys are put together here: all of them carry the same hash tag.

local root, name, owner = ARGV[1], ARGV[2], ARGV[3]
local lock = KEYS[1]
-- Who waits, in the order in which they came, and until when each of them counts as being there.
local queue, alive = root .. ':q:' .. name, root .. ':a:' .. name
-- The last token of each name.
local tokens = root .. ':t'

local time = redis.call('TIME')
-- In microseconds. Whole numbers below 2^53 are exact in Lua.
local now = time[1] * 1000000 + time[2]

-- The first of those who wait and are there.
local function first()
  while true do
    local found = redis.call('ZRANGE', queue, '0', '0')[1]
    if not found then
      return nil
    end
    local ends = redis.call('ZSCORE', alive, found)
    if ends and tonumber(ends) > now then
      return found
    end
    redis.call('ZREM', queue, found)
    redis.call('ZREM', alive, found)
  end
end

-- Tells one who waits to look. An attempt is named by its coordinator, a colon, and the rest.
local function wake(who)
  local words = root .. ':w:' .. string.match(who, '^[^:]*')
  redis.call('LPUSH', words, who)
  redis.call('PEXPIRE', words, '10000')
end
