-- Lets go of the lock, or of one's place in the queue; whether the lock was still ours. Done twice it finds
-- what it has left: as long as nobody came after us, it was us who left it.
--
-- ARGV, behind the prelude's: 4 the token, or nothing if there is none.

redis.call('ZREM', queue, owner)
redis.call('ZREM', alive, owner)
local holder = redis.call('HGET', lock, 'owner')
local ours = holder == owner
if ours then
  redis.call('UNLINK', lock)
  holder = nil
elseif not holder and ARGV[4] ~= '' then
  ours = redis.call('HGET', tokens, name) == ARGV[4]
end
if not holder then
  local next_one = first()
  if next_one then
    wake(next_one)
  end
end
return ours and 1 or 0
