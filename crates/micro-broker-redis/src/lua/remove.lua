-- Removes a group; whether it was there.
--
-- ARGV, behind the prelude's: 3 the group, 4 how long messages are retained, 5 whether members may be left
-- ('1').

return remove(topic, ARGV[3], ARGV[4], ARGV[5] == '1') and 1 or 0
