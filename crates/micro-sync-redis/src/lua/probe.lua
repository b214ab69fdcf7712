-- Runs every command that the other scripts need, over keys that nothing else uses: what Redis or its
-- ACL refuses is refused here, and not in the middle of a change.
--
-- KEYS[1] is a hash. ARGV[1] is what all keys begin with.

local probe = ARGV[1] .. ':probe:'

redis.call('TIME')
redis.call('HSET', KEYS[1], 'owner', 'o')
redis.call('HGET', KEYS[1], 'owner')
redis.call('HMGET', KEYS[1], 'token', 'value')
redis.call('PEXPIRE', KEYS[1], '1000')
redis.call('PTTL', KEYS[1])
redis.call('ZADD', probe .. 'q', '1', 'o')
redis.call('ZSCORE', probe .. 'q', 'o')
redis.call('ZRANGE', probe .. 'q', '0', '0')
redis.call('ZREM', probe .. 'q', 'o')
redis.call('UNLINK', KEYS[1])
-- For a command that scripts may not run: it is asked for next, and need not wait.
redis.call('LPUSH', probe .. 'w', '1')
redis.call('PEXPIRE', probe .. 'w', '1000')
return 'fine'
