-- Makes changes, all or none. First everything that can be refused, then everything that is done:
-- Redis undoes nothing.
--
-- ARGV, behind the prelude's: 3 the handle, 4 its connection's number, 5 whether anything is written,
-- then for each operation: kind, table, key, condition, fence, token, expiry, record.

local FIRST, STEP = 6, 8
-- Every so many changes, by chance, so many expired records are taken out on the way.
local TURN, PURGE = 8, '64'
-- So long what an earlier connection has sent is refused, in milliseconds.
local CLAIM = 3600000

-- What was sent over an earlier connection of the handle comes too late: a later change may have
-- been made since.
local claim = root .. ':c:' .. ARGV[3]
local epoch = tonumber(ARGV[4])
local claimed = tonumber(redis.call('GET', claim) or 0)
if claimed > epoch then
  return { 'late' }
end

for i = FIRST, #ARGV, STEP do
  local number = (i - FIRST) / STEP
  local fence = ARGV[i + 4]
  if fence ~= '' then
    local seen = redis.call('HGET', root .. ':f:' .. database, fence)
    if seen and seen > ARGV[i + 5] then
      return { 'fence', number, seen }
    end
  end
  local condition = ARGV[i + 3]
  if condition ~= '' then
    -- The version; of no record, and of one that has expired, nothing.
    local there = redis.call('GETRANGE', record_of(ARGV[i + 1], ARGV[i + 2]), 1, 16)
    if there ~= (condition == 'absent' and '' or condition) then
      return { 'condition', number, there }
    end
  end
end

-- An expiry is 'at' milliseconds since the epoch, or 'in' so many microseconds.
local function expiry_of(text)
  if text == '' then
    return nil
  end
  local number = tonumber(string.sub(text, 3))
  if string.sub(text, 1, 2) == 'at' then
    return number
  end
  return math.min(math.ceil((now + number) / 1000), 253402300799999)
end

local function put(tbl, key, expiry, rest)
  if expiry and expiry * 1000 <= now then
    -- It has expired before it was written.
    local _, version = remove(tbl, key)
    return version or next_version()
  end
  local index, member = index_of(tbl), tbl .. ':' .. key
  local is_new = redis.call('ZADD', index, '0', key) == 1
  if is_new and redis.call('ZCARD', index) == 1 then
    redis.call('ZADD', scopes, '0', database .. ' ' .. tbl)
  end
  local version = next_version()
  local head = '1' .. digits_of_version(version) .. string.format('%015d', expiry or 0)
  local record = head .. rest
  if expiry then
    redis.call('ZADD', expiries, expiry, member)
    -- Redis still gives a record in the millisecond of its expiry; here it is gone by then.
    redis.call('SET', record_of(tbl, key), record, 'PXAT', expiry - 1)
  else
    if not is_new then
      redis.call('ZREM', expiries, member)
    end
    redis.call('SET', record_of(tbl, key), record)
  end
  tell('w', tbl, key, record)
  return version
end

local expired = now % TURN == 0 and due(PURGE) or {}
local writes = ARGV[5] == '1'
if writes then
  -- The first command that a full Redis refuses.
  keep_version(base + #expired + (#ARGV - FIRST + 1) / STEP)
end
purge(expired)
local answer = { 'done' }
for i = FIRST, #ARGV, STEP do
  local tbl, key = ARGV[i + 1], ARGV[i + 2]
  local version
  if ARGV[i] == 'w' then
    version = put(tbl, key, expiry_of(ARGV[i + 6]), ARGV[i + 7])
  else
    local existed
    existed, version = remove(tbl, key)
    version = existed and version or 0
  end
  if ARGV[i + 4] ~= '' then
    redis.call('HSET', root .. ':f:' .. database, ARGV[i + 4], ARGV[i + 5])
  end
  answer[#answer + 1] = version
end
if not writes and last > base then
  keep_version(last)
end
if epoch > 1 and epoch > claimed then
  redis.call('SET', claim, epoch, 'PX', CLAIM)
end
return answer
