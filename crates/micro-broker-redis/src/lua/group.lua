-- What the scripts of a group's messages share. ARGV[3] is the group.
--
-- A message that was read from the stream is pending there until it is settled, and stands in one of two
-- places here: in `due` by the time at which it is delivered again, which is its lease while somebody
-- handles it; or in `parked`, if another of its key is before it. `held` says which message has a key.

local group = ARGV[3]
local stream = KEYS[1]
local due, held, parked =
  of_group('d', topic, group), of_group('h', topic, group), of_group('p', topic, group)

-- A message as `due` has it: its id, and its key, which comes last.
local function member(id, key)
  if key == '' then
    return id
  end
  return id .. ' ' .. key
end

local function of_member(text)
  local space = string.find(text, ' ', 1, true)
  if not space then
    return text, ''
  end
  return string.sub(text, 1, space - 1), string.sub(text, space + 1)
end

-- Lets a message wait for its key: by key, and in the order of the stream.
local function park(id, key)
  local millis, number = parts_of(id)
  redis.call('ZADD', parked, '0', key .. string.format('\0%020.0f-%020.0f', millis, number))
end

-- Gives back a key that a message has: the next of those that wait for it has it then.
local function release(id, key)
  if key == '' or redis.call('HGET', held, key) ~= id then
    return
  end
  local first = redis.call('ZRANGEBYLEX', parked, '[' .. key .. '\0', '(' .. key .. '\1', 'LIMIT', '0', '1')[1]
  if not first then
    redis.call('HDEL', held, key)
    return
  end
  redis.call('ZREM', parked, first)
  local millis, number = parts_of(string.sub(first, #key + 2))
  local next_id = string.format('%.0f-%.0f', millis, number)
  redis.call('HSET', held, key, next_id)
  redis.call('ZADD', due, '0', member(next_id, key))
  wake(topic, group)
end

-- A message is done with.
local function done(id, key)
  redis.call('XACK', stream, group, id)
  redis.call('ZREM', due, member(id, key))
  release(id, key)
end
