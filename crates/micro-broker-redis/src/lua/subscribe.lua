-- Makes a group if it is not there.
--
-- ARGV, behind the group's: 4 the id behind which it begins, 5 for how long it is there without being heard
-- of, in milliseconds, or nothing.

local made = redis.pcall('XGROUP', 'CREATE', stream, group, ARGV[4], 'MKSTREAM')
if type(made) == 'table' and made.err then
  if not string.find(made.err, 'BUSYGROUP', 1, true) then
    return made
  end
else
  -- What is left of one that Redis has lost half of.
  redis.call('UNLINK', due, held, parked)
end
local ends = '+inf'
if ARGV[5] ~= '' then
  ends = now + tonumber(ARGV[5])
end
redis.call('ZADD', groups_of(topic), ends, group)
redis.call('PERSIST', stream)
redis.call('UNLINK', of_group('x', topic, group))
wake(topic, group)
return 'fine'
