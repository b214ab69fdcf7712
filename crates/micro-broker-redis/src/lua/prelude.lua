-- What all scripts share.
--
-- KEYS[1] is the topic's stream. ARGV[1] is what all keys begin with, ARGV[2] the topic's name with its
-- namespace. The other keys are put together here: all of them carry the same hash tag, so they are where
-- KEYS[1] is.
--
-- A full Redis refuses a script at its first command that may need memory, unless something was written
-- before: scripts that make room begin with a write that needs none.

local root, topic = ARGV[1], ARGV[2]
local CONSUMER = 'micro'
-- So long it is known that a group was removed, in milliseconds.
local REMOVED = '86400000'
-- Every so many calls, by chance, what is not needed any more is taken out.
local TURN = 64

local time = redis.call('TIME')
local micros = tonumber(time[2])
local now = time[1] * 1000 + math.floor(micros / 1000)

local function stream_of(name)
  return root .. ':s:' .. name
end

-- The groups of a topic, with the times at which those of subscribers without a group end.
local function groups_of(name)
  return root .. ':g:' .. name
end

-- Something of a group: 'd' when its messages are due, 'h' who holds a key, 'p' what waits for a key,
-- 'w' a word for a member that waits, 'x' that it was removed; and, by its members, 'o' what they were given.
local function of_group(what, name, group)
  return root .. ':' .. what .. ':' .. name .. ':' .. group
end

-- Wakes one member that waits, or the next one that comes to wait.
local function wake(name, group)
  local word = of_group('w', name, group)
  if redis.call('LLEN', word) == 0 then
    redis.call('LPUSH', word, '1')
  end
end

local function parts_of(id)
  local millis, number = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(millis), tonumber(number)
end

local function is_before(a, b)
  local a_millis, a_number = parts_of(a)
  local b_millis, b_number = parts_of(b)
  return a_millis < b_millis or (a_millis == b_millis and a_number < b_number)
end

-- Removes a group; whether it was there. Members that are still there see the mark. A topic without groups
-- stays for as long as its messages are retained.
local function remove(name, group, retain, mark)
  local existed = redis.call('ZREM', groups_of(name), group) == 1
  redis.pcall('XGROUP', 'DESTROY', stream_of(name), group)
  redis.call(
    'UNLINK',
    of_group('d', name, group),
    of_group('h', name, group),
    of_group('p', name, group),
    of_group('w', name, group)
  )
  if existed and mark then
    redis.call('SET', of_group('x', name, group), '1', 'PX', REMOVED)
  end
  if redis.call('ZCARD', groups_of(name)) == 0 then
    redis.call('PEXPIRE', stream_of(name), retain)
  end
  return existed
end

-- Removes the groups of subscribers that have not been heard of for too long.
local function bury(name, retain)
  for _, group in ipairs(redis.call('ZRANGEBYSCORE', groups_of(name), '-inf', now)) do
    remove(name, group, retain, true)
  end
end

-- The first entry that some group has not handled, and that group; nothing without groups.
local function needed(name)
  local first, whose
  local infos = redis.pcall('XINFO', 'GROUPS', stream_of(name))
  if infos.err then
    return nil
  end
  for _, fields in ipairs(infos) do
    local info = {}
    for i = 1, #fields, 2 do
      info[fields[i]] = fields[i + 1]
    end
    local at = info['last-delivered-id']
    if info['pending'] > 0 then
      at = redis.call('XPENDING', stream_of(name), info['name'])[2]
    end
    if not first or is_before(at, first) then
      first, whose = at, info['name']
    end
  end
  return first, whose
end

-- Takes out what every group has handled and is older than what is retained, about.
local function tidy(name, retain)
  bury(name, retain)
  local first = needed(name)
  local oldest = string.format('%.0f-0', now - retain)
  if first and is_before(first, oldest) then
    oldest = first
  end
  redis.call('XTRIM', stream_of(name), 'MINID', '~', oldest)
end

-- Makes room in a topic that is full: what was handled goes, the oldest first. Which group keeps it
-- full, if it is still.
local function make_room(name, limit, retain)
  local stream = stream_of(name)
  bury(name, retain)
  local first, whose = needed(name)
  if not first then
    redis.call('XTRIM', stream, 'MAXLEN', limit - math.ceil(limit / 8))
    return nil
  end
  redis.call('XTRIM', stream, 'MINID', '~', first, 'LIMIT', '1000')
  if redis.call('XLEN', stream) >= limit then
    redis.call('XTRIM', stream, 'MINID', first)
  end
  if redis.call('XLEN', stream) >= limit then
    return whose
  end
  return nil
end

-- Adds a message to a topic for all of its groups: its id, which is empty if it is kept for nobody, and
-- how many groups there are. Of a full topic, nothing, and the group that keeps it full.
local function add(name, limit, retain, fields)
  local groups = redis.call('ZRANGE', groups_of(name), 0, -1)
  if #groups == 0 and retain == 0 then
    return '', 0
  end
  local stream = stream_of(name)
  if redis.call('XLEN', stream) >= limit then
    local whose = make_room(name, limit, retain)
    if whose then
      return nil, whose
    end
  end
  local id = redis.call('XADD', stream, '*', unpack(fields))
  if #groups == 0 then
    redis.call('PEXPIRE', stream, retain)
  end
  for _, group in ipairs(groups) do
    wake(name, group)
  end
  if micros % TURN == 0 then
    tidy(name, retain)
  end
  return id, #groups
end
