-- Says that a subscriber without a group is still there.
--
-- ARGV, behind the prelude's: 3 its group, 4 for how long from now on, in milliseconds.

redis.call('ZADD', groups_of(topic), 'XX', now + tonumber(ARGV[4]), ARGV[3])
return 'fine'
