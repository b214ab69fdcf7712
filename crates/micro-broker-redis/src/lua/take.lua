-- Takes messages that are to be handled now.
--
-- ARGV, behind the group's: 4 how many at most, 5 how long they are lent, 6 how long messages are retained,
-- 7 the member, 8 the number of this call of its own, 9 that of an earlier one whose answer never came, or
-- nothing.

-- So many are read at once, and no more are read once there are so many bytes of them.
local STEP, ENOUGH = 8, 4194304
-- So many are parked at most before others have their turn.
local PARKED = 256

local want, lease, retain = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
redis.call('ZREM', due, '')
local there = redis.call('ZSCORE', groups_of(topic), group)
local pending = redis.pcall('XPENDING', stream, group)
if not there or pending.err then
  if redis.call('EXISTS', of_group('x', topic, group)) == 1 then
    return { 'removed' }
  end
  return { 'lost' }
end

-- What the member was given last: the number of its call, and a line for each message.
local given = of_group('o', topic, group) .. ':' .. ARGV[7]
local lines = { ARGV[8] }

-- Takes back what never reached it, as if it had not been delivered.
local function take_back()
  local last = redis.call('GET', given)
  local number, rest = string.match(last or '', '^(%d+)(.*)$')
  if not number or tonumber(number) < tonumber(ARGV[9]) then
    return
  end
  for deliveries, text in string.gmatch(rest, '\n(%d+) ([^\n]+)') do
    local id = of_member(text)
    local found = redis.call('XPENDING', stream, group, id, id, '1')[1]
    if found and found[4] == tonumber(deliveries) then
      redis.call('XCLAIM', stream, group, CONSUMER, '0', id, 'RETRYCOUNT', found[4] - 1, 'JUSTID')
      redis.call('ZADD', due, '0', text)
    end
  end
end
if ARGV[9] ~= '' then
  take_back()
end

local answer, bytes = { 'messages' }, 0
local function hand_over(entry, key, deliveries)
  local text = member(entry[1], key)
  redis.call('ZADD', due, now + lease, text)
  lines[#lines + 1] = string.format('%d %s', deliveries, text)
  for _, field in ipairs(entry[2]) do
    bytes = bytes + #field
  end
  answer[#answer + 1] = { entry[1], key, deliveries, entry[2] }
end

local function has_room()
  return #answer <= want and bytes < ENOUGH
end

-- Those whose time has come.
for _, text in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', '0', want)) do
  if not has_room() then
    break
  end
  local id, key = of_member(text)
  local holder = key ~= '' and redis.call('HGET', held, key)
  if holder and holder ~= id then
    redis.call('ZREM', due, text)
    park(id, key)
  else
    local before = redis.call('XPENDING', stream, group, id, id, '1')[1]
    local entry = before and redis.call('XCLAIM', stream, group, CONSUMER, '0', id)[1]
    if entry then
      if key ~= '' then
        redis.call('HSET', held, key, id)
      end
      hand_over(entry, key, before[4] + 1)
    else
      -- Somebody has deleted it.
      done(id, key)
    end
  end
end

-- The key of a message; of one that somebody else has written, nothing if it is none.
local function key_of(fields)
  for i = 1, #fields, 2 do
    if fields[i] == 'micro-key' then
      return string.match(fields[i + 1], '^[ -~]+$') or ''
    end
  end
  return ''
end

-- And new ones.

local waiting, over = 0, false
while has_room() and waiting < PARKED do
  local count = math.min(STEP, want - #answer + 1)
  local read = redis.call('XREADGROUP', 'GROUP', group, CONSUMER, 'COUNT', count, 'STREAMS', stream, '>')
  if not read then
    over = true
    break
  end
  for _, entry in ipairs(read[1][2]) do
    local id, key = entry[1], key_of(entry[2])
    if key ~= '' and redis.call('HGET', held, key) then
      redis.call('XCLAIM', stream, group, CONSUMER, '0', id, 'RETRYCOUNT', '0', 'JUSTID')
      park(id, key)
      waiting = waiting + 1
    else
      if key ~= '' then
        redis.call('HSET', held, key, id)
      end
      hand_over(entry, key, 1)
    end
  end
end

if #answer > 1 then
  redis.call('SET', given, table.concat(lines, '\n'), 'PX', lease)
end
if micros % TURN == 0 then
  tidy(topic, retain)
end
if not over then
  -- There may be more, for others.
  wake(topic, group)
elseif #answer == 1 then
  local first = redis.call('ZRANGE', due, '0', '0', 'WITHSCORES')
  return { 'nothing', first[2] and math.max(0, math.ceil(first[2] - now)) or -1 }
end
return answer
