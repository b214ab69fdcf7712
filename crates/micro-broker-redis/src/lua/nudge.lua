-- Wakes a member of a group, which is ARGV[3]. ARGV[4] is one that leaves, or nothing.

if ARGV[4] ~= '' then
  redis.call('UNLINK', of_group('o', topic, ARGV[3]) .. ':' .. ARGV[4])
end
wake(topic, ARGV[3])
return 'fine'
