-- Takes out what has expired, and the places of records that are gone without having expired.
--
-- ARGV, behind the prelude's: 3 how much at most, then perhaps 4 a table and keys of it.

local expired = due(ARGV[3])
purge(expired)
for i = 5, #ARGV do
  if redis.call('EXISTS', record_of(ARGV[4], ARGV[i])) == 0 then
    remove(ARGV[4], ARGV[i])
  end
end
if last > base then
  keep_version(last)
end
return #expired
