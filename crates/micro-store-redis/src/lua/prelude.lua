-- What the scripts that change something share.
--
-- KEYS[1] counts versions. ARGV[1] is what all keys begin with, ARGV[2] the database. The other keys
-- are put together here: all of them carry the same hash tag, so they are where KEYS[1] is.

local root, database = ARGV[1], ARGV[2]
local expiries = root .. ':e:' .. database
local scopes = root .. ':s'

-- In microseconds. Whole numbers below 2^53 are exact in Lua.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

-- Versions are above the last one, and above the clock: a server that has lost its last seconds, and
-- the last version with them, gives no version twice.
local base = math.max(tonumber(redis.call('GET', KEYS[1]) or 0) or 0, now)
local last = base

local function next_version()
  last = last + 1
  return last
end

-- As it stands in records and in the counter.
local function digits_of_version(number)
  return string.format('%016d', number)
end

local function record_of(tbl, key)
  return root .. ':r:' .. database .. ':' .. tbl .. ':' .. key
end

local function index_of(tbl)
  return root .. ':i:' .. database .. ':' .. tbl
end

-- Tells those who watch the table.
local watched = {}
local function tell(kind, tbl, key, rest)
  local channel = root .. ':w:' .. database .. ':' .. tbl
  if watched[channel] == nil then
    watched[channel] = redis.call('PUBSUB', 'NUMSUB', channel)[2] > 0
  end
  if watched[channel] then
    redis.call('PUBLISH', channel, kind .. struct.pack('>I4', #key) .. key .. rest)
  end
end

-- Takes out a record and what is left of an expired one. Answers whether there was a record, and the
-- version of the removal if there was anything.
local function remove(tbl, key)
  local index = index_of(tbl)
  local existed = redis.call('UNLINK', record_of(tbl, key)) == 1
  redis.call('ZREM', expiries, tbl .. ':' .. key)
  if redis.call('ZREM', index, key) == 0 then
    return false, nil
  end
  if redis.call('EXISTS', index) == 0 then
    redis.call('ZREM', scopes, database .. ' ' .. tbl)
  end
  local version = next_version()
  tell('d', tbl, key, digits_of_version(version))
  return existed, version
end

-- What has expired and was not taken out yet, so much at most.
local function due(most)
  return redis.call('ZRANGEBYSCORE', expiries, '-inf', math.floor(now / 1000), 'LIMIT', '0', most)
end

-- Takes it out. Nothing newer goes along: who writes a record again changes its time here as well.
local function purge(members)
  for _, member in ipairs(members) do
    local colon = string.find(member, ':', 1, true)
    remove(string.sub(member, 1, colon - 1), string.sub(member, colon + 1))
  end
end

-- Before the first change if it must not fail later; behind deletions, which are made where Redis is
-- full, too.
local function keep_version(version)
  redis.call('SET', KEYS[1], digits_of_version(version))
end
