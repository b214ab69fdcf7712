-- Runs every command that the other scripts need, over keys that nothing else uses: what Redis or its
-- ACL refuses is refused here, and not in the middle of a change.
--
-- KEYS[1] is a stream. ARGV[1] is what all keys begin with.

local stream = KEYS[1]
local probe = ARGV[1] .. ':probe:'

redis.call('UNLINK', stream)
redis.call('TIME')
redis.call('XGROUP', 'CREATE', stream, 'g', '$', 'MKSTREAM')
local id = redis.call('XADD', stream, '*', 'k', 'v')
redis.call('XLEN', stream)
redis.call('XREADGROUP', 'GROUP', 'g', 'micro', 'COUNT', '1', 'STREAMS', stream, '>')
redis.call('XPENDING', stream, 'g')
redis.call('XINFO', 'GROUPS', stream)
redis.call('XCLAIM', stream, 'g', 'micro', '0', id)
redis.call('XACK', stream, 'g', id)
redis.call('XTRIM', stream, 'MINID', id)
redis.call('XGROUP', 'DESTROY', stream, 'g')
redis.call('PEXPIRE', stream, '1000')
redis.call('PERSIST', stream)
redis.call('SET', probe .. 'x', '1', 'PX', '1000')
redis.call('GET', probe .. 'x')
redis.call('EXISTS', probe .. 'x')
redis.call('LLEN', probe .. 'w')
redis.call('ZADD', probe .. 'd', '0', 'm')
redis.call('ZSCORE', probe .. 'd', 'm')
redis.call('ZCARD', probe .. 'd')
redis.call('ZRANGE', probe .. 'd', '0', '0')
redis.call('ZRANGEBYLEX', probe .. 'd', '-', '+', 'LIMIT', '0', '1')
redis.call('ZRANGEBYSCORE', probe .. 'd', '-inf', '0', 'LIMIT', '0', '1')
redis.call('ZREM', probe .. 'd', 'm')
redis.call('HSET', probe .. 'h', 'k', 'v')
redis.call('HGET', probe .. 'h', 'k')
redis.call('HDEL', probe .. 'h', 'k')
redis.call('UNLINK', stream, probe .. 'x')
-- For a command that scripts may not run: it is asked for next, and need not wait.
redis.call('LPUSH', probe .. 'w', '1')
redis.call('PEXPIRE', probe .. 'w', '1000')
return 'fine'
