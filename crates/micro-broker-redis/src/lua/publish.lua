-- Publishes a message.
--
-- ARGV, behind the prelude's: 3 how many messages the topic takes, 4 how long it retains them, 5 the id that
-- the publisher gave, or nothing, 6 for how long it is known, then the entry's fields.

local limit, retain = tonumber(ARGV[3]), tonumber(ARGV[4])
local known = root .. ':i:' .. topic .. ':' .. ARGV[5]
if ARGV[5] ~= '' then
  local before = redis.call('GET', known)
  if before then
    return { 'duplicate', before, redis.call('ZCARD', groups_of(topic)) }
  end
end
local fields = {}
for i = 7, #ARGV do
  fields[i - 6] = ARGV[i]
end
local id, count = add(topic, limit, retain, fields)
if not id then
  return { 'full', count }
end
if ARGV[5] ~= '' then
  redis.call('SET', known, id, 'PX', ARGV[6])
end
return { 'stored', id, count }
