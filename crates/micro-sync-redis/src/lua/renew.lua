-- Lets the lock live for a whole time to live from now on, if it is still the owner's.
--
-- ARGV, behind the prelude's: 4 the time to live in milliseconds.

if redis.call('HGET', lock, 'owner') ~= owner then
  return 0
end
return redis.call('PEXPIRE', lock, ARGV[4])
