-- A stretch of a listing; it changes nothing.
--
-- KEYS[1] is the table's index. ARGV: 1 what the names of its records begin with, 2 and 3 where to
-- begin and end, 4 how many keys to visit, 5 how many records to find, 6 how many to pass over first,
-- 7 a suffix, 8 how many bytes of each record to give (-1 for all), 9 how many bytes there is room
-- for, 10 whether a record must be given though there is no room.
--
-- Answers: how it ended ('end', 'full' or 'more'), the last key that was visited, how many were
-- passed over, the keys without a record, and the keys and records found.

-- The bytes of a record that are not its value and metadata.
local HEAD = 36

local visit, limit, offset = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local suffix, part, room = ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local must = ARGV[10] == '1'

local keys = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[2], ARGV[3], 'LIMIT', 0, visit)
local ended = #keys < visit and 'end' or 'more'
local visited, passed, gone, found = '', 0, {}, {}
for _, key in ipairs(keys) do
  if suffix == '' or string.sub(key, -#suffix) == suffix then
    local name = ARGV[1] .. key
    local size = redis.call('STRLEN', name)
    if size == 0 then
      gone[#gone + 1] = key
    elseif passed < offset then
      passed = passed + 1
    else
      if part < 0 then
        room = room - (size - HEAD)
      end
      if #found == 2 * limit or (room < 0 and not must) then
        ended = 'full'
        break
      end
      must = false
      found[#found + 1] = key
      found[#found + 1] = redis.call('GETRANGE', name, 0, part < 0 and -1 or part - 1)
    end
  end
  visited = key
end
return { ended, visited, passed, gone, found }
