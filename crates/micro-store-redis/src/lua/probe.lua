-- Runs every command that the other scripts need, over keys that nothing else uses: what Redis or its
-- ACL refuses is refused here, and not in the middle of a change.
--
-- KEYS[1] counts versions. ARGV[1] is what all keys begin with.

local probe = ARGV[1] .. ':p:'
local channel = ARGV[1] .. ':w:p'

redis.call('TIME')
redis.call('GET', KEYS[1])
redis.call('PUBSUB', 'NUMSUB', channel)
redis.call('PUBLISH', channel, '')
redis.call('SET', probe .. 'record', '', 'PXAT', 253402300799999)
redis.call('SET', probe .. 'claim', '', 'PX', 1000)
redis.call('STRLEN', probe .. 'record')
redis.call('GETRANGE', probe .. 'record', 0, 0)
redis.call('ZADD', probe .. 'index', 0, 'key')
redis.call('ZCARD', probe .. 'index')
redis.call('ZRANGEBYLEX', probe .. 'index', '-', '+', 'LIMIT', 0, 1)
redis.call('ZRANGEBYSCORE', probe .. 'index', '-inf', 0, 'LIMIT', 0, 1)
redis.call('ZREM', probe .. 'index', 'key')
redis.call('EXISTS', probe .. 'index')
redis.call('HSET', probe .. 'fences', 'name', '')
redis.call('HGET', probe .. 'fences', 'name')
redis.call('UNLINK', probe .. 'record', probe .. 'claim', probe .. 'fences')
return 'fine'
