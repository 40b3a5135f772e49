-- Read where a topic stands, and a portion of its log.
--
-- Atomicity: Redis runs the script with no other command in between, so the position and the entries belong together.
-- It writes only if the server may have lost something since the topic's last message: then it begins a new epoch, and
-- deletes the log.
--
-- KEYS  1  where the topic stands: a hash of epoch, offset, run
--       2  the topic's log: a stream, whose ids are "OFFSET-1"
-- ARGV  1  the incarnation of the server, by which a restart that may have lost something is noticed
--       2  the name of an epoch, in case a new one begins
--       3  the epoch of a position
--       4  the offset of that position
--       5  how many bytes of entries are enough; 0: no entries are wanted
--       6  how many entries are enough
--       7  1: the latest entries until that position, the last one first; 0: the entries after it
--
-- Returns epoch, offset, the time in ms, the entries, and the offset at which the next portion begins (false: there is
-- none); or false if the topic is not kept, or what is there is not ours.

local topic_key, log_key = KEYS[1], KEYS[2]
local incarnation, new_epoch, asked_epoch, asked_offset = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local room, most, backwards = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7] == '1'

local epoch, offset, run = unpack(redis.call('HMGET', topic_key, 'epoch', 'offset', 'run'))
if not epoch or #epoch > 64 or not string.match(epoch, '^[%w.-]+$') then return false end
if not offset or #offset > 15 or not string.match(offset, '^%d+$') then return false end
if run ~= incarnation then
  epoch, offset = new_epoch, '0'
  redis.call('DEL', log_key)
  redis.call('HSET', topic_key, 'epoch', epoch, 'offset', 0, 'run', incarnation)
end

local first, last = 1, tonumber(offset)
if epoch == asked_epoch then
  if backwards then last = math.min(last, tonumber(asked_offset)) else first = asked_offset + 1 end
end
local command, at, stop = 'XRANGE', first, last
if backwards then command, at, stop = 'XREVRANGE', last, first end

local entries, size, count = {}, 0, 1
local function has_more()
  return (backwards and at >= stop or not backwards and at <= stop) and #entries < most
end
while size < room and has_more() do
  local found = redis.call(command, log_key, string.format('%d', at), string.format('%d', stop),
    'COUNT', string.format('%d', math.min(count, most - #entries)))
  if #found == 0 then
    if backwards then at = 0 else at = stop + 1 end
    break
  end
  for _, entry in ipairs(found) do
    entries[#entries + 1] = entry
    for _, field in ipairs(entry[2]) do size = size + #field end
  end
  local id = tonumber(string.match(found[#found][1], '^%d+'))
  if backwards then at = id - 1 else at = id + 1 end
  -- as many entries as fit into the room that is left, by the average size so far
  count = math.max(1, math.min(64, math.floor((room - size) * #entries / size)))
end

local time = redis.call('TIME')
local now = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
return {epoch, offset, now, entries, has_more() and string.format('%d', at) or false}
